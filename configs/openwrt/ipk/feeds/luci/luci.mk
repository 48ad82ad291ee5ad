# Stands for luci.mk of the luci feed, see ../../rules.mk. It packs no translations.

LUCI_NAME := $(notdir $(CURDIR))
include $(TOPDIR)/package.mk

define Package/$(LUCI_NAME)
  SECTION:=luci
  TITLE:=$(LUCI_TITLE)
  DEPENDS:=$(LUCI_DEPENDS)
  PKGARCH:=$(LUCI_PKGARCH)
endef

define Package/$(LUCI_NAME)/install
	$(INSTALL_DIR) $(1)/www
	$(CP) ./root/. $(1)/
	$(CP) ./htdocs/. $(1)/www/
	chmod -R u=rwX,go=rX $(1)
endef

define Package/$(LUCI_NAME)/postinst
#!/bin/sh
[ -n "$${IPKG_INSTROOT}" ] || { rm -rf /tmp/luci-indexcache* /tmp/luci-modulecache; /etc/init.d/rpcd reload; }
exit 0
endef

$(eval $(call BuildPackage,$(LUCI_NAME)))
