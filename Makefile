# rproxy: `make` builds build/rproxy, `make help` lists the rest.
#
# For a packager:
#   CC CFLAGS CPPFLAGS LDFLAGS AR   are respected; what rproxy itself needs is added beside them.
#                                   A CC of your own links as it does by default; STATIC=1: static
#   BEARSSL_DIR=path                another BearSSL source tree, 0.6 or newer; it stays untouched
#   SYSTEM=1 CC=gcc                 the system's libc and libbearssl
#   PREFIX=/usr/local DESTDIR=      for install and uninstall
#   TARGET=mips                     cross build, one of configs/targets.mk; gives build/mips/rproxy
# Without BEARSSL_DIR, ./bearssl is taken (it comes with `make dist`), else the source package of
# the distribution, from the mirror that the machine is set up with.

VERSION := $(shell sed -n 's/^\#define RP_VERSION "\(.*\)"/\1/p' rproxy.h)
PYTHON := /usr/bin/python3 -B# Debian's: another one in PATH may lack modules
PREFIX ?= /usr/local
JOBS ?= $(shell nproc 2>/dev/null || echo 1)
FUZZ_TIME ?= 600# seconds for each fuzz target
SOAK ?= 30m
export SOAK

# Sources that are fetched, by the SHA-256 that they must have.
bearssl_tar := bearssl_0.6+dfsg.1.orig.tar.xz
musl_tar := musl_1.2.3.orig.tar.gz
sha256-$(bearssl_tar) := 102a625bd8f6155260867a50c508df8d8c3f796985dd744df1a68e5cd1a79004
sha256-$(musl_tar) := 7d5b0b6062521e4627e099e4c9dc8248d32a30285e959b7eecaa780cf8cfd4a4

# Debian packages, installed when missing by the targets that need them.
need-build := gcc libc6-dev musl-tools
need-fetch := ca-certificates xz-utils
need-debug := gcc libc6-dev libcrypt-dev
need-demo := nginx-light curl openssl python3 python3-websockets
need-fuzz := clang-14 libclang-rt-14-dev
need-check := $(need-demo) $(need-debug) python3-pytest python3-pytest-xdist python3-hypothesis python3-cryptography \
	apache2-utils whois \
	git wget gnutls-bin clang-14 libclang-rt-14-dev clang-format-14 cppcheck binutils iproute2 procps busybox shellcheck \
	chromium chromium-driver libmbedtls-dev libnss3-tools certbot pebble testssl.sh sslscan \
	util-linux mandoc man-db systemd rsyslog libbearssl-dev \
	musl-tools gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static
need-interop := $(need-check) openjdk-17-jdk-headless
# The compilers and emulators of what is checked come with TARGET=.
need-cross-check := $(need-check)
need-bench := wrk nginx-light haproxy valgrind openssl curl python3 util-linux

include configs/targets.mk

# ---- what to build with: a router, a compiler that the user named, or musl of this machine --------

own = -std=c11 -ffunction-sections -fdata-sections -fstack-protector-strong
ldown := -Wl,--gc-sections -Wl,-z,relro,-z,now
D := build/obj
BIN := build/rproxy
need := build/.need-build

ifdef TARGET
ifeq ($(filter $(TARGET),$(TARGETS)),)
$(error TARGET=$(TARGET) is not one of: $(TARGETS))
endif
D := build/$(TARGET)
BIN := $(D)/rproxy
CC := $($(TARGET)-triple)-gcc $($(TARGET)-flags)
AR := $($(TARGET)-triple)-ar
STATIC := 1
need := build/.need-cross-$(TARGET)
need-cross-$(TARGET) := $($(TARGET)-package) qemu-user-static
musl := $(D)/musl/lib/libc.a
# Nothing of the compiler's own C library and start files is used: they are built for a larger
# processor of the family. Where its libgcc is too, a cleaned one is made below.
own += -nostdinc -isystem $(CURDIR)/$(D)/musl/include -isystem $(shell $(CC) -print-file-name=include)
ldown += -nostdlib -L$(D)/musl/lib -Wl,--build-id=none
small := $($(TARGET)-small)
ifneq ($(filter -msoft-float,$(CC)),)
libgcc := $(D)/libgcc.a
endif
libs += -Wl,--start-group -lc $(if $(libgcc),$(libgcc),-lgcc -lgcc_eh) -Wl,--end-group
else ifdef SYSTEM
need :=
else ifneq ($(if $(filter default undefined,$(origin CC)),musl-gcc,$(filter musl-gcc,$(CC))),)
CC := musl-gcc
STATIC ?= 1
# Debian's musl comes without crypt(3), which password files need: it is compiled from musl's source.
ifeq ($(wildcard bearssl/src),)
crypt := $(D)/libcrypt.a
endif
else
need :=
endif

# Fast where it runs often (rproxy.c itself says where small is better), small where it does not.
CFLAGS ?= $(if $(TARGET),,-O2 $(if $(findstring clang,$(CC)),,-fno-tree-vectorize -falign-functions=1 \
	-falign-jumps=1 -falign-loops=1))
ifeq ($(STATIC),1)
own += -fno-asynchronous-unwind-tables -fno-unwind-tables
LDFLAGS ?= $(if $(TARGET),,-s)
# Static-pie by hand: musl-gcc's specs know nothing of it. rcrt1.o is the start file that relocates
# the program itself; found on the library path, as -lc is.
ifeq ($(filter -fno-pie,$(CC) $(CFLAGS)),)
own += -fPIE
crt := -static -nostartfiles -Wl,-pie,--no-dynamic-linker,-z,text -l:rcrt1.o
else
# No address in it is set at start: nothing to make read-only afterwards.
crt := -static -nostartfiles -Wl,-z,norelro -l:crt1.o
endif
else ifneq ($(shell printf '\043include <features.h>\n' | $(CC) -E -dM - 2>/dev/null | grep -w __GLIBC__),)
lcrypt := -lcrypt
endif
ifeq ($(TARGET)$(crypt),)
ifneq ($(shell printf 'char *crypt();int main(){return !crypt();}' | $(CC) -w -x c - -o /dev/null $(lcrypt) 2>&1),)
own += -DRP_CRYPT=0
else
libs += $(lcrypt)
endif
endif

# Hashes that rproxy refuses, or has code of its own for: never called, not linked.
ifneq ($(TARGET)$(crypt),)
no_crypt := -Wl,--defsym=__crypt_des=abort,--defsym=__crypt_md5=abort \
	-Wl,--defsym=__crypt_sha256=abort,--defsym=__crypt_sha512=abort
endif

ifdef SYSTEM
libs += -lbearssl
else
BEARSSL_DIR ?= $(if $(wildcard bearssl/src),bearssl,build/bearssl)
bearssl := $(D)/libbearssl.a
bearssl_flags ?= -Os
include := -isystem $(BEARSSL_DIR)/inc
endif

# $(call program,OUTPUT,SOURCE,FLAGS): compiles and links one program.
program = $(CC) $(CPPFLAGS) $(CFLAGS) $(own) $(small) $(include) $3 -o $1 \
	$(ldown) $(LDFLAGS) $(crt) $2 $(bearssl) $(crypt) $(no_crypt) $(libs)

# The same for tests: glibc, sanitizers, invariants after every turn.
debug_cc := gcc
debug_flags := -std=c11 -g -O1 -fno-omit-frame-pointer -DRP_DEBUG=1 \
	-fsanitize=address,undefined -fno-sanitize-recover=undefined
debug_lib := $(if $(SYSTEM),,build/debug/libbearssl.a)
debug_libs := $(debug_lib) $(if $(SYSTEM),-lbearssl) -lcrypt
debug_needs := rproxy.h Makefile $(debug_lib) | build/.need-debug
# What then runs for a second only is compiled by whoever is quickest at it.
quick := $(or $(notdir $(shell command -v clang-14)),$(debug_cc)) $(debug_flags) -O0

units := $(patsubst tests/%.c,%,$(wildcard tests/unit_*.c))
sims := $(patsubst tests/%.c,%,$(wildcard tests/sim_*.c))
fuzzers := $(patsubst tests/fuzz_%.c,%,$(filter-out tests/fuzz_main.c,$(wildcard tests/fuzz_*.c)))
each := tests/check.sh
corpus = $(wildcard tests/corpus/$1)

.DELETE_ON_ERROR:
.SECONDARY:
.SUFFIXES:
.PHONY: all debug unit sim fuzz fuzz-quick behaviour behaviour-release interop spec lint check demo bench \
	soak install uninstall dist release cross run-check run-quick check-cross check-cross-quick ipk help \
	clean force

all: $(BIN) ## build/rproxy: static, stripped, hardened
debug: build/rproxy-debug ## build/rproxy-debug: sanitizers and invariant checks

# For a router the symbols stay beside the program, for a debugger and the tests.
$(if $(TARGET),$(BIN)-symbols,$(BIN)): rproxy.c rproxy.h $(bearssl) $(crypt) $(libgcc) $(D)/.flags | $(need)
	$(call program,$@,$<)
ifdef TARGET
$(BIN): $(BIN)-symbols
	$($(TARGET)-triple)-strip -o $@ $<
endif

build/rproxy-debug: rproxy.c $(debug_needs)
	$(debug_cc) $(debug_flags) $(include) -o $@ $< $(debug_libs)

# What the last build was made with: when it changes, everything is made again.
$(D)/.flags: force | $(need)
	@mkdir -p $(@D)
	@printf '%s\n' '$(subst ','\'',$(call program) $(AR) $(BEARSSL_DIR) $(bearssl_not) \
		$(bearssl_fast) $(if $(TARGET),$(musl_dirs) $(musl_not) $(musl_small)))' >$@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@

# ---- BearSSL and musl ---------------------------------------------------------------------------

# Files that rproxy has no use for: older ciphers, arithmetic for other processors, making of keys.
bearssl_not := i15|_m15|i32_[^d]|_i32|/des_|aes_(big|small)|_cbc|keygen|shake|oaep|pss|encode_|tls10
# Files that are worth their size: what works on every byte, or on every number of a handshake.
bearssl_fast := /(symcipher|hash)/|i(31|62)_(mont|mul|modpow2|sub|add)|ec_(p256|c25519)

# $(call bearssl_lib,COMPILER AND FLAGS,AR): builds $@ out of $(BEARSSL_DIR).
define bearssl_lib
@echo "BearSSL: $(BEARSSL_DIR) -> $@"
@rm -rf $(@D)/bearssl && mkdir -p $(@D)/bearssl
@cd $(@D)/bearssl && ls $(abspath $(BEARSSL_DIR))/src/*.c $(abspath $(BEARSSL_DIR))/src/*/*.c | \
	grep -vE '$(bearssl_not)' >files; set -- -n 8 -P $(JOBS) $1 \
	-I$(abspath $(BEARSSL_DIR))/src -I$(abspath $(BEARSSL_DIR))/inc -c; \
	grep -E '$(bearssl_fast)' files | xargs "$$@" && \
	grep -vE '$(bearssl_fast)' files | xargs "$$@" $(small)
@$2 rcs $@ $(@D)/bearssl/*.o
endef

$(D)/libbearssl.a: $(BEARSSL_DIR)/inc/bearssl.h $(D)/.flags $(musl) | $(need)
	$(call bearssl_lib,$(CC) $(CPPFLAGS) $(CFLAGS) $(bearssl_flags) $(own),$(AR))

# The tests are TLS clients and make keys, too: they have all of it.
build/debug/libbearssl.a: bearssl_not := ^$$
build/debug/libbearssl.a: $(BEARSSL_DIR)/inc/bearssl.h | build/.need-debug
	$(call bearssl_lib,$(debug_cc) -g -O2,ar)

build/bearssl/inc/bearssl.h: build/fetched/$(bearssl_tar)
	rm -rf build/bearssl && mkdir -p build/bearssl
	tar xmf $< -C build/bearssl --strip-components=1

build/musl/configure: build/fetched/$(musl_tar)
	rm -rf build/musl && mkdir -p build/musl
	tar xmf $< -C build/musl --strip-components=1
	# printf and scanf without floating point, which rproxy has none of and MIPS routers lack
	sed -i 's/l = fmt_fp(.*/goto inval;/; s/y = __floatscan(.*/goto match_fail;/' \
		$(addprefix build/musl/src/stdio/,vfprintf.c vfscanf.c vfwscanf.c)

$(D)/libcrypt.a: build/musl/configure Makefile $(D)/.flags | $(need)
	@echo "crypt: build/musl/src/crypt -> $@"
	@rm -rf $(D)/crypt && mkdir -p $(D)/crypt
	@cd $(D)/crypt && $(CC) $(CFLAGS) $(own) -D_GNU_SOURCE '-Dhidden=__attribute__((visibility("hidden")))' -Os -w -idirafter $(CURDIR)/build/musl/include \
		-Werror=implicit-function-declaration -include $(CURDIR)/build/musl/src/include/crypt.h \
		-c $(CURDIR)/build/musl/src/crypt/*.c
	@$(AR) rcs $@ $(D)/crypt/*.o

# deb-src lines for the mirrors that the machine has, in an apt directory of our own.
build/fetched/%: | build/.need-fetch
	@command -v apt-get >/dev/null || { echo "rproxy: no apt-get here to fetch $* with: say" \
		"BEARSSL_DIR=path of a BearSSL source tree" >&2; exit 1; }
	@echo "fetching $*"
	@mkdir -p $(@D) build/apt/sources build/apt/lists/partial build/apt/archives/partial
	@exec 9>build/apt/lock && flock 9 && for f in /etc/apt/sources.list.d/*.sources; do \
		[ ! -f "$$f" ] || sed 's/^Types:.*/Types: deb-src/' "$$f" >"build/apt/sources/$${f##*/}"; \
	done; cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null | \
		sed -n 's/^deb /deb-src /p' >build/apt/sources/rproxy.list; \
	set -- -qq -o Dir::Etc::sourcelist=/dev/null -o APT::Sandbox::User=root \
		-o Dir::Etc::sourceparts=$(CURDIR)/build/apt/sources \
		-o Dir::State::lists=$(CURDIR)/build/apt/lists -o Dir::Cache=$(CURDIR)/build/apt; \
	apt-get "$$@" update; cd $(@D) && \
		apt-get "$$@" source --download-only $(firstword $(subst _, ,$*)) >/dev/null
	@echo "$(sha256-$*)  $@" | sha256sum -c --quiet || { rm -f $@; exit 1; }

# By another name, so that `make -n` does not run it.
make_musl := $(MAKE) -s -j$(JOBS)
ifdef TARGET
$(D)/musl/lib/libc.a: build/musl/configure $(D)/.flags | $(need)
	@echo "musl: $@"
	@rm -rf $(D)/musl $(D)/musl-build && mkdir -p $(D)/musl-build
	@cd $(D)/musl-build && ../../musl/configure --target=$($(TARGET)-triple) --disable-shared \
		--prefix=$(CURDIR)/$(D)/musl CC="$(CC)" CFLAGS="$(CFLAGS)" >configure.log 2>&1 && \
		echo '$(musl_small:%=obj/src/%.o): CFLAGS_ALL += $(small)' >>config.mak && \
		$(make_musl) CFLAGS="$(CFLAGS)" SRC_DIRS='$(musl_dirs:%=$$(srcdir)/%)' \
		LIBC_OBJS='$$(filter-out $(musl_not:%=obj/src/%),$$(filter obj/src/%,$$(ALL_OBJS)))' \
		lib/libc.a lib/crt1.o lib/rcrt1.o install-headers >make.log 2>&1 && \
		cp -r lib ../musl || { cat *.log | tail -n 20; exit 1; }

# libgcc's arithmetic on whole numbers, without the marks of the float ABI that it was built for.
$(libgcc): $(musl)
	@rm -rf $(D)/libgcc $@ && mkdir -p $(D)/libgcc
	@cd $(D)/libgcc && ar x $$($(CC) -print-libgcc-file-name) $(libgcc_members:%=%.o) && for o in *.o; do \
		$($(TARGET)-triple)-objcopy -R .gnu.attributes -R .MIPS.abiflags -R .eh_frame $$o; done
	@$(AR) rcs $@ $(D)/libgcc/*.o
endif

# Installs what is missing of the packages $(need-SET). No service is started by them.
build/.need-%: Makefile
	@mkdir -p build
	@command -v dpkg-query >/dev/null || { echo "not Debian: needs $(need-$*)"; touch $@; exit 0; }; \
	missing=; for p in $(need-$*); do \
		case $$(dpkg-query -W -f '$${Status}' $$p 2>/dev/null) in \
		*' installed') ;; *) missing="$$missing $$p" ;; esac; done; \
	if [ -n "$$missing" ]; then \
		echo "installing:$$missing"; sudo=; \
		[ "$$(id -u)" = 0 ] || sudo=$$(command -v sudo) || { \
			echo "rproxy: not root and no sudo; please run: apt-get install$$missing" >&2; exit 1; }; \
		policy=/usr/sbin/policy-rc.d; \
		if [ ! -e $$policy ]; then \
			printf '#!/bin/sh\nexit 101\n' | $$sudo tee $$policy >/dev/null; \
			$$sudo chmod 755 $$policy; trap "$$sudo rm -f $$policy" EXIT; fi; \
		$$sudo apt-get -qq update; \
		$$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 \
			-o Dpkg::Use-Pty=0 install -y --no-install-recommends $$missing >build/install.log 2>&1 || \
			{ tail -20 build/install.log >&2; exit 1; }; \
	fi; touch $@

# ---- tests --------------------------------------------------------------------------------------

build/tests/%: tests/%.c rproxy.c $(wildcard tests/*.h) $(debug_needs)
	@mkdir -p $(@D)
	$(quick) $(include) -o $@ $< $(debug_libs)

build/tests/sim_%: tests/sim_%.c rproxy.c $(wildcard tests/*.h) $(debug_needs)
	@mkdir -p $(@D)
	$(debug_cc) $(debug_flags) $(include) -o $@ $< $(debug_libs)

build/fuzz-quick/%: tests/fuzz_%.c tests/fuzz_main.c rproxy.c $(wildcard tests/*.h) $(debug_needs)
	@mkdir -p $(@D)
	$(quick) $(include) -o $@ $< tests/fuzz_main.c $(debug_libs)

build/fuzz/%: tests/fuzz_%.c rproxy.c $(wildcard tests/*.h) $(debug_needs) build/.need-fuzz
	@mkdir -p $(@D)
	clang-14 $(debug_flags) -fsanitize=fuzzer $(include) -o $@ $< $(debug_libs)

unit: $(units:%=build/tests/%) ## unit tests of the rooms, with sanitizers
	@$(each) $^
sim: $(sims:%=build/tests/%) ## whole-proxy stories on a simulated system; SEEDS=n for more
	@$(each) $^
fuzz-quick: $(fuzzers:%=build/fuzz-quick/%) ## the fuzzers' collected inputs, once each
	@$(each) $(foreach f,$(fuzzers),"build/fuzz-quick/$f $(call corpus,$f)")
fuzz: $(fuzzers:%=build/fuzz/%) ## each fuzzer for FUZZ_TIME seconds, findings in build/fuzz
	@for f in $(fuzzers); do mkdir -p build/fuzz/$$f.corpus build/fuzz/$$f.found; \
		seeds=tests/corpus/$$f; [ -d $$seeds ] || seeds=; \
		build/fuzz/$$f -max_total_time=$(FUZZ_TIME) -timeout=10 -print_final_stats=1 \
		-artifact_prefix=build/fuzz/$$f.found/ build/fuzz/$$f.corpus $$seeds || exit 1; done

# Clients of other TLS libraries that no package has.
build/interop/brssl: build/bearssl/inc/bearssl.h | build/.need-check
	@mkdir -p $(@D)
	@$(debug_cc) -O1 -w -Ibuild/bearssl/inc -o $@ build/bearssl/tools/*.c -lbearssl
build/interop/%: tests/interop/%.c | build/.need-check
	@mkdir -p $(@D)
	@$(debug_cc) -O1 -o $@ $< -lmbedtls -lmbedx509 -lmbedcrypto
clients := build/interop/brssl build/interop/mbedtls

pytest = $(PYTHON) -m pytest -q -p no:cacheprovider
# Most tests wait most of the time. The tests of a file stay together, and so what they share.
WORKERS ?= 2
parallel = -n $(WORKERS) --dist loadfile
behaviour: build/rproxy-debug $(BIN) $(clients) build/.need-check ## the debug binary between real clients and backends
	@RPROXY=$(CURDIR)/build/rproxy-debug $(pytest) $(parallel) $(TESTS) tests
behaviour-release: $(BIN) build/.need-check ## the quick part of it on the release binary
	@RPROXY=$(CURDIR)/$(BIN) $(pytest) $(parallel) -m release tests
interop: $(BIN) $(clients) build/.need-interop ## every TLS client there is, Java too
	@RPROXY=$(CURDIR)/$(BIN) RP_INTEROP=1 $(pytest) tests/test_interop.py
spec: build/.need-check ## what HTTP demands of a proxy, and the test that pins each demand
	@$(PYTHON) tests/spec.py
lint: $(BIN) build/.need-check ## warnings, format, cppcheck, order and doors of the rooms
	@$(PYTHON) tests/lint.py $(BEARSSL_DIR)/inc $(BIN)

check: build/.need-check $(BIN) build/rproxy-debug ## every test; the last line counts them
	-@$(MAKE) -s -k -j$(JOBS) $(units:%=build/tests/%) $(sims:%=build/tests/%) \
		$(fuzzers:%=build/fuzz-quick/%)
	@$(each) $(foreach t,lint unit sim fuzz-quick behaviour behaviour-release check-cross-quick spec soak,\
		"$(MAKE) -s $t SOAK=40s")

demo: $(BIN) build/.need-demo ## two sites behind one address; DEMO=once ends after the proof
	@RPROXY=$(BIN) tests/demo.sh

# The release, but with symbols and at a fixed address: valgrind may refuse a static-pie.
build/rproxy-bench: rproxy.c rproxy.h $(bearssl) $(crypt) $(D)/.flags | $(need)
	$(CC) $(CPPFLAGS) $(CFLAGS) $(own) $(include) -fno-pie -g -o $@ $(ldown) \
		$(if $(crt),-static -nostartfiles -l:crt1.o) $< $(bearssl) $(crypt) $(no_crypt) $(libs)
bench: $(BIN) build/rproxy-bench build/.need-bench ## cost of a request beside nginx and HAProxy
	RPROXY=$(CURDIR)/$(BIN) tests/bench/run.sh
	BIN=$(CURDIR)/build/rproxy-bench tests/bench/instructions.sh
	RPROXY=$(CURDIR)/$(BIN) tests/bench/memory.sh
soak: $(BIN) build/.need-check ## load of every kind for SOAK=30m
	RPROXY=$(CURDIR)/$(BIN) $(PYTHON) tests/soak.py

# ---- install and release ------------------------------------------------------------------------

to := $(DESTDIR)$(PREFIX)
# A cross-built binary cannot print its own manual here: then there is none.
install: $(BIN) ## program, manual, examples, systemd unit, completion; PREFIX, DESTDIR
	install -d $(to)/bin $(to)/share/doc/rproxy/examples $(to)/lib/systemd/system
	install -m 755 $(BIN) $(to)/bin/rproxy
	install -m 644 configs/*.conf $(to)/share/doc/rproxy/examples
	install -m 644 README.md LICENSE $(to)/share/doc/rproxy
	sed 's|/usr/local/bin/|$(PREFIX)/bin/|' configs/systemd/rproxy.service >$(D)/rproxy.service
	install -m 644 $(D)/rproxy.service $(to)/lib/systemd/system
	if $(BIN) --help=man >$(D)/rproxy.8 2>/dev/null; then \
		install -D -m 644 $(D)/rproxy.8 $(to)/share/man/man8/rproxy.8; fi
	if $(BIN) --help=bash >$(D)/completion 2>/dev/null; then \
		install -D -m 644 $(D)/completion $(to)/share/bash-completion/completions/rproxy; fi
uninstall: ## what install has put there
	rm -f $(to)/bin/rproxy $(to)/lib/systemd/system/rproxy.service \
		$(to)/share/man/man8/rproxy.8 $(to)/share/bash-completion/completions/rproxy
	rm -rf $(to)/share/doc/rproxy

name := rproxy-$(VERSION)
dist: $(BEARSSL_DIR)/inc/bearssl.h ## build/rproxy-VERSION.tar.gz with BearSSL in it, reproducible
	rm -rf build/dist && mkdir -p build/dist/$(name)/bearssl
	git ls-files -z | xargs -0 cp -P --parents -t build/dist/$(name)
	cp -R $(BEARSSL_DIR)/src $(BEARSSL_DIR)/inc $(BEARSSL_DIR)/LICENSE.txt build/dist/$(name)/bearssl
	tar -C build/dist --sort=name --owner=0 --group=0 --numeric-owner --mode=u+rw,go=u,go-w \
		--format=gnu --mtime=@$$(git log -1 --format=%ct 2>/dev/null || echo 0) -cf - $(name) | \
		gzip -n9 >build/$(name).tar.gz
	@sha256sum build/$(name).tar.gz

cross: ## build/TARGET/rproxy for every router family
	@for t in $(TARGETS); do $(MAKE) TARGET=$$t || exit 1; done
# What depends on the order and the size of words, where all of it would take too long.
quick_units := $(if $(filter mips,$(TARGET)),$(units),$(filter %_addr %_head %_tls,$(units)))
# In the emulator of the target; everything takes some five times as long there.
emulated = RPROXY="$($(TARGET)-emulator) $(CURDIR)/$(BIN)" RPROXY_SLOW=$${RPROXY_SLOW:-5} $(each)
unit_runs = $(foreach u,$1,"$($(TARGET)-emulator) $u")
openwrt_runs = $(if $($(TARGET)-ld),"RPROXY='$($(TARGET)-emulator) -L $(CURDIR)/$(D)/sysroot \
	$(CURDIR)/$(BIN)-openwrt' $(pytest) tests/test_cases.py tests/test_basic.py")
openwrt_needs := $(if $($(TARGET)-ld),$(BIN)-openwrt $(D)/sysroot$($(TARGET)-ld))
run-check: $(units:%=$(D)/tests/%) $(BIN) $(openwrt_needs) build/.need-cross-check ## TARGET=: its tests, emulated
	@$(emulated) $(call unit_runs,$(filter $(D)/tests/%,$^)) \
		"$(pytest) tests/test_cases.py tests/cross.py" "$(pytest) -m 'release and not native' tests" $(openwrt_runs)
run-quick: $(quick_units:%=$(D)/quick/%) $(BIN) build/.need-cross-check ## TARGET=: a part of them
	@RPROXY_WAYS=split RPROXY_TRANSPORTS=http $(emulated) $(call unit_runs,$(filter $(D)/quick/%,$^)) \
		"$(pytest) tests/test_cases.py" "$(pytest) -m release tests/cross.py"
check-cross: ## every router's program, whole, each in its emulator
	@$(each) $(foreach t,mips mipsel armv5 armv7 aarch64,\
		"$(MAKE) -s -j$(JOBS) TARGET=$t run-check")
check-cross-quick: ## a small part: big-endian 32 bit, and ARM with 64
	@$(each) $(foreach t,mips aarch64,"$(MAKE) -s -j$(JOBS) TARGET=$t run-quick")
target_unit = @mkdir -p $(@D); $(call program,$@,$<,-w $1)
target_needs = rproxy.c rproxy.h $(wildcard tests/*.h) $(bearssl) $(libgcc) $(D)/.flags
$(D)/tests/%: tests/%.c $(target_needs)
	$(call target_unit)
$(D)/quick/%: tests/%.c $(target_needs)
	$(call target_unit,-O0)

release: cross ## binaries of all targets, checksums and a table of sizes in build/release
	@rm -rf build/release && mkdir -p build/release
	@for t in $(TARGETS); do cp build/$$t/rproxy build/release/$(name)-$$t; done
	@cd build/release && sha256sum $(name)-* >SHA256SUMS && \
		for f in $(name)-*; do echo "$$f $$(wc -c <$$f) $$(gzip -9c $$f | wc -c)"; done | \
		awk 'BEGIN { printf "%-28s %9s %9s\n", "binary", "bytes", "gzip" } \
			{ printf "%-28s %9d %9d\n", $$1, $$2, $$3 }' | tee SIZES

# What OpenWrt calls the processors of these targets; `cat /etc/openwrt_release` says a router's own.
openwrt-mips := mips_24kc
openwrt-mipsel := mipsel_24kc
openwrt-armv5 := arm_arm926ej-s
openwrt-armv7 := arm_cortex-a7
openwrt-aarch64 := aarch64_cortex-a53
openwrt-riscv64 := riscv64_generic
openwrt-i386 := i386_pentium4
OPENWRT_ARCH ?= $(or $(openwrt-$(TARGET)),x86_64)

# Where flash is scarcest the package uses the musl that every OpenWrt has. To link against it its
# names and the sizes of its variables are enough.
ipk_program := $(if $($(TARGET)-ld),$(BIN)-openwrt,$(BIN))
$(D)/names/libc.so: $(musl)
	@mkdir -p $(@D)
	@$($(TARGET)-triple)-nm -gS --defined-only $< 2>/dev/null | awk 'NF < 3 || seen[$$NF]++ { next } \
		$$(NF - 1) ~ /[TW]/ { print ".globl " $$NF "\n.type " $$NF ",@function\n" $$NF ": nop"; next } \
		{ print ".comm " $$NF ",0x" $$2 }' >$(@D)/names.s
	@$(CC) -shared -nostdlib -o $@ $(@D)/names.s
$(BIN)-openwrt: $(BIN) $(D)/names/libc.so
	$(CC) $(CPPFLAGS) $(CFLAGS) $(own) $(small) $(include) -o $@ -L$(D)/names $(ldown) -s -no-pie \
		-Wl,--dynamic-linker,$($(TARGET)-ld),--hash-style=sysv -nostartfiles -l:crt1.o rproxy.c \
		$(bearssl) $(libs)
# The whole of that libc, for the emulator.
$(D)/sysroot$($(TARGET)-ld): build/musl/configure $(libgcc) $(D)/.flags
	@echo "musl: $@"
	@rm -rf $(D)/sysroot && mkdir -p $(D)/sysroot/build $(@D)
	@cd $(D)/sysroot/build && ../../../musl/configure --target=$($(TARGET)-triple) --disable-static \
		CC="$(filter-out -fno-pie -mplt -mno-shared,$(CC))" LIBCC=$(abspath $(libgcc)) >configure.log && \
		$(make_musl) SRC_DIRS='$(patsubst %,$$(srcdir)/%,$(musl_dirs) ldso src/ldso src/setjmp)' \
		LOBJS='$$(filter-out $(musl_unshared:%=obj/src/%.lo),$$(LIBC_OBJS:.o=.lo))' lib/libc.so >make.log 2>&1 && \
		cp lib/libc.so $(abspath $@) || { cat *.log | tail -n 20; exit 1; }

ipk: $(ipk_program) ## TARGET=: packages for opkg around that binary, without OpenWrt's SDK
	@for p in rproxy luci-app-rproxy; do $(MAKE) -s --no-print-directory -C configs/openwrt/$$p \
		TOPDIR=$(CURDIR)/configs/openwrt/ipk OUT=$(abspath $(dir $(BIN))) ARCH=$(OPENWRT_ARCH) \
		PROGRAM=$(abspath $(ipk_program)) STAMP=$$(git log -1 --format=%ct 2>/dev/null || echo 0) ipk || \
		exit; done

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | while IFS='	' read -r t text; do \
		printf '  %-18s %s\n' "$$t" "$$text"; done
clean: ## removes build/
	rm -rf build
force:
