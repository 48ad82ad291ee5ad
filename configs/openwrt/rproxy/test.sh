#!/bin/sh
# Run by the packages feed's CI on the target: test.sh PACKAGE VERSION.

[ "$1" = rproxy ] || exit 0

rproxy --version | grep -F "rproxy ${2%-r*}" || exit 1

conf=$(mktemp)
trap 'rm -f "$conf"' EXIT
printf 'http 8080\nroute *.example.com=http://192.168.1.4:8096\n' >"$conf"
rproxy --check -c "$conf" || exit 1
echo 'route example.com=ftp://192.168.1.4' >>"$conf"
! rproxy --check -c "$conf" || exit 1
