# One row per router family: name, triple, Debian package of its compiler, flags, emulator.
# `make TARGET=name` builds for it, `make TARGET=name run-check` runs the unit tests.
#
# -fno-pie: at a fixed address. Position independent MIPS code is a sixth larger, and flash is what
# these routers lack most. max-page-size: with the default of 64 KB, padding makes up 32 KB of the
# file; 16 KB fits every kernel that such a router or a Raspberry Pi has.
row = $(eval TARGETS += $1)$(eval $1-triple := $2)$(eval $1-package := $3)$(eval \
	$1-flags := $4)$(eval $1-emulator := $5)
pages := -Wl,-z,max-page-size=16384
mips_flags := -Os $(pages) -mips32r2 -mtune=24kc -msoft-float -fno-pie -mno-shared
arm_flags := -Os $(pages) -mfloat-abi=soft

# ath79; ramips (mt7621, mt7620, mt76x8); kirkwood and older; cortex-a7, -a9; -a53; newer; PCs
$(call row,mips,mips-linux-gnu,gcc-mips-linux-gnu,$(mips_flags),qemu-mips-static -cpu 24Kc)
$(call row,mipsel,mipsel-linux-gnu,gcc-mipsel-linux-gnu,$(mips_flags),qemu-mipsel-static -cpu 24Kc)
$(call row,armv5,arm-linux-gnueabi,gcc-arm-linux-gnueabi,$(arm_flags) -march=armv5te,qemu-arm-static -cpu arm926)
$(call row,armv7,arm-linux-gnueabi,gcc-arm-linux-gnueabi,$(arm_flags) -march=armv7-a -mthumb,qemu-arm-static -cpu cortex-a7)
$(call row,aarch64,aarch64-linux-gnu,gcc-aarch64-linux-gnu,-Os $(pages),qemu-aarch64-static -cpu cortex-a53)
$(call row,riscv64,riscv64-linux-gnu,gcc-riscv64-linux-gnu,-Os,qemu-riscv64-static)
$(call row,x86_64,x86_64-linux-gnu,gcc,-O2,qemu-x86_64-static)
$(call row,i386,i686-linux-gnu,gcc-i686-linux-gnu,-Os -march=i586,qemu-i386-static)

# MIPS routers have no floating point at all, and Debian's libgcc for MIPS has no software for it.
# rproxy uses none. printf in musl can, but only if asked: its calls are made to end in abort().
no_floats := __adddf3 __subdf3 __muldf3 __divdf3 __negdf2 __eqdf2 __nedf2 __ltdf2 __ledf2 __gtdf2 \
	__gedf2 __unorddf2 __fixdfsi __fixunsdfsi __fixdfdi __fixunsdfdi __floatsidf __floatunsidf \
	__floatdidf __floatundidf __extendsfdf2 __truncdfsf2 __addsf3 __subsf3 __mulsf3 __divsf3
# What is taken of that libgcc instead: arithmetic on 64-bit numbers.
libgcc_members := _divdi3 _moddi3 _udivdi3 _umoddi3 _udivmoddi4 _ashldi3 _ashrdi3 _lshrdi3 _muldi3 \
	_cmpdi2 _ucmpdi2 _negdi2 _clz _clzsi2 _clzdi2 _ctzsi2 _ctzdi2 _ffsdi2 _bswapsi2 _bswapdi2 \
	_popcountsi2 _popcountdi2 _popcount_tab
