# One row per router family: name, triple, Debian package of its compiler, flags, emulator, flags for
# what need not be fast. `make TARGET=name` builds for it, `make TARGET=name run-check` tests that.
#
# -fno-pie: at a fixed address. Position independent MIPS code is a sixth larger, and flash is what
# these routers lack most. max-page-size: with the default of 64 KB, padding makes up 32 KB of the
# file; 16 KB fits every kernel that such a router or a Raspberry Pi has.
row = $(eval TARGETS += $1)$(eval $1-triple := $2)$(eval $1-package := $3)$(eval \
	$1-flags := $4)$(eval $1-emulator := $5)$(eval $1-small := $6)
pages := -Wl,-z,max-page-size=16384
arm_flags := -Os $(pages) -mfloat-abi=soft
# -mplt with -mno-shared: functions are called by their address, not through a table.
mips_flags := -Os $(pages) -mips32r2 -mtune=24kc -msoft-float -fno-pie -mno-shared -mplt \
	-minterlink-mips16
# The short instructions, which all of these processors have, take a third less flash. Code in its
# plain order compresses better.
mips_small := -mips16 -fno-schedule-insns2

# ath79; ramips (mt7621, mt7620, mt76x8); kirkwood and older; cortex-a7, -a9; -a53; newer; PCs
$(call row,mips,mips-linux-gnu,gcc-mips-linux-gnu,$(mips_flags),qemu-mips-static -cpu 24Kc,$(mips_small))
$(call row,mipsel,mipsel-linux-gnu,gcc-mipsel-linux-gnu,$(mips_flags),qemu-mipsel-static -cpu 24Kc,$(mips_small))
$(call row,armv5,arm-linux-gnueabi,gcc-arm-linux-gnueabi,$(arm_flags) -march=armv5te,qemu-arm-static -cpu arm926)
$(call row,armv7,arm-linux-gnueabi,gcc-arm-linux-gnueabi,$(arm_flags) -march=armv7-a -mthumb,qemu-arm-static -cpu cortex-a7)
$(call row,aarch64,aarch64-linux-gnu,gcc-aarch64-linux-gnu,-Os $(pages),qemu-aarch64-static -cpu cortex-a53)
$(call row,riscv64,riscv64-linux-gnu,gcc-riscv64-linux-gnu,-Os,qemu-riscv64-static)
$(call row,x86_64,x86_64-linux-gnu,gcc,-O2,qemu-x86_64-static)
$(call row,i386,i686-linux-gnu,gcc-i686-linux-gnu,-Os -march=i586,qemu-i386-static)

# OpenWrt's musl on the routers with the least flash.
mips-ld := /lib/ld-musl-mips-sf.so.1
mipsel-ld := /lib/ld-musl-mipsel-sf.so.1

# The parts of musl that rproxy and its unit tests are made with, the files of them that are left
# out, and those that the flags for small code suit: they run seldom and call the kernel through
# others only.
musl_dirs := crt $(addprefix src/,conf crypt ctype dirent env errno exit fcntl internal linux locale \
	malloc malloc/mallocng misc mman multibyte network passwd process regex select signal stat stdio \
	stdlib string temp thread time unistd)
musl_not := $(addsuffix %,$(addprefix locale/,cat iconv) $(addprefix thread/,cnd mtx thrd \
	tss pthread_attr pthread_barrier pthread_cond pthread_mutexattr pthread_rwlockattr pthread_spin))
musl_small := $(addprefix time/,__secs_to_tm __tz __year_to_secs) $(addprefix network/,dns_parse \
	getaddrinfo inet_aton inet_ntop inet_pton lookup_ipliteral lookup_name lookup_serv res_mkquery \
	resolvconf) $(addprefix stdio/,fflush fgets fread fwrite getdelim vasprintf vfprintf vsnprintf) \
	$(addprefix passwd/,getgr_a getgrent getgrent_a getgrouplist getpw_a getpwent getpwent_a \
	nscd_query) dirent/scandir internal/intscan internal/shgetc stdlib/qsort stdlib/strtol

musl_unshared := internal/floatscan locale/strtod_l misc/openpty misc/forkpty stdlib/atof stdlib/ecvt stdlib/fcvt stdlib/gcvt \
	stdlib/strtod stdlib/wcstod time/difftime

# MIPS routers have no floating point at all, and Debian's libgcc for MIPS has no software for it:
# only its arithmetic on 64-bit numbers is taken.
libgcc_members := _divdi3 _moddi3 _udivdi3 _umoddi3 _udivmoddi4 _ashldi3 _ashrdi3 _lshrdi3 _muldi3 \
	_cmpdi2 _ucmpdi2 _negdi2 _clz _clzsi2 _clzdi2 _ctzsi2 _ctzdi2 _ffsdi2 _bswapsi2 _bswapdi2 \
	_popcountsi2 _popcountdi2 _popcount_tab
