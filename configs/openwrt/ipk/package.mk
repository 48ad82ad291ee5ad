# Stands for package.mk, see rules.mk.

# The same bytes whoever packs it and whenever.
pack := tar --format=gnu --sort=name --owner=0 --group=0 --numeric-owner --mtime=@$(STAMP) -c

depends = $(subst $(space),$(comma) ,$(strip libc $(patsubst +%,%,$(filter-out @%,$(DEPENDS)))))
comma := ,
space := $(empty) $(empty)

define newline


endef

# What opkg reads. The scripts are the ones that OpenWrt gives to every package.
define control
Package: $(1)
Version: $(PKG_VERSION)-r$(PKG_RELEASE)
Depends: $(depends)
License: $(PKG_LICENSE)
Section: $(SECTION)
$(if $(USERID),Require-User: $(USERID)$(newline))Architecture: $(if $(filter all,$(PKGARCH)),all,$(ARCH))
Maintainer: $(PKG_MAINTAINER)
Description: $(TITLE)
endef

define script
#!/bin/sh
[ -s "$${IPKG_INSTROOT}/lib/functions.sh" ] || exit 0
. "$${IPKG_INSTROOT}/lib/functions.sh"
default_$(1) "$$0" "$$@"
endef

define BuildPackage
$(eval $(Package/$(1)))
export ipk_control = $$(call control,$(1))
export ipk_conffiles = $$(Package/$(1)/conffiles)
export ipk_postinst-pkg = $$(Package/$(1)/postinst)
export ipk_postinst = $$(call script,postinst)
export ipk_prerm = $$(call script,prerm)
ipk:
	@rm -rf $(WORK) && mkdir -p $(WORK)/control $(WORK)/data $(WORK)/built/build
	$(if $(PROGRAM),@install -m 755 $(PROGRAM) $(WORK)/built/build/rproxy)
	@set -e; $(subst $(newline),; ,$(subst \$(newline),,$(call Package/$(1)/install,$(WORK)/data)))
	@cd $(WORK)/control && for f in control conffiles postinst-pkg postinst prerm; do \
	text=$$$$(printenv ipk_$$$$f); [ -z "$$$$text" ] || printf '%s\n' "$$$$text" >$$$$f; done && \
	chmod 644 * && chmod 755 p*
	@echo 2.0 >$(WORK)/debian-binary
	@set -e -o pipefail; for d in control data; do \
	$(pack) -C $(WORK)/$$$$d . | gzip -n9 >$(WORK)/$$$$d.tar.gz; done; \
	f=$(OUT)/$(1)_$(PKG_VERSION)-r$(PKG_RELEASE)_$(if $(filter all,$(PKGARCH)),all,$(ARCH)).ipk; \
	$(pack) -C $(WORK) ./debian-binary ./control.tar.gz ./data.tar.gz | gzip -n9 >$$$$f; \
	rm -r $(WORK); wc -c $$$$f
endef
