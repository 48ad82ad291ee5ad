# Stands for the rules.mk of OpenWrt's SDK: with it and its neighbours, `make ipk` in the source tree
# packs what a package's own Makefile installs, around a program that was built already.
#
#   make -C PACKAGE TOPDIR=.../ipk OUT=FOLDER ARCH=mips_24kc PROGRAM=build/mips/rproxy STAMP=SECONDS

SHELL := /bin/bash
INCLUDE_DIR := $(TOPDIR)
WORK := $(OUT)/ipk
PKG_BUILD_DIR := $(WORK)/built

INSTALL_DIR := install -d -m 755
INSTALL_BIN := install -m 755
INSTALL_CONF := install -m 600
INSTALL_DATA := install -m 644
CP := cp -fpR
