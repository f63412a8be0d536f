# Runs inside a fresh image, as root, and makes a test machine of it.
export DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin

echo xenhost >/etc/hostname
echo '127.0.0.1 localhost xenhost' >/etc/hosts
passwd -q -d root

# A persistent journal, and none of what a test machine only waits for.
mkdir -p /var/log/journal
systemctl -q mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
    fstrim.timer man-db.timer systemd-timesyncd.service systemd-pstore.service systemd-logind.service getty@tty1.service \
    systemd-networkd-wait-online.service systemd-networkd-persistent-storage.service systemd-tpm2-setup.service \
    systemd-tpm2-setup-early.service systemd-random-seed.service dev-hugepages.mount dev-mqueue.mount tmp.mount \
    sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount sys-fs-fuse-connections.mount
systemctl -q enable systemd-networkd.service
printf 'blacklist %s\n' kvm kvm_amd kvm_intel powernow_k8 pcspkr bochs cirrus floppy i2c_piix4 >/etc/modprobe.d/test.conf
for tty in ttyS0 hvc0; do
    mkdir -p "/etc/systemd/system/serial-getty@$tty.service.d"
    printf '[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --noclear --keep-baud 115200 - linux\n' \
        >"/etc/systemd/system/serial-getty@$tty.service.d/autologin.conf"
done

# Asking the drivers of all that a PC has takes a minute here; these are the devices that there are.
mkdir -p /etc/systemd/system/systemd-udev-trigger.service.d
cat >/etc/systemd/system/systemd-udev-trigger.service.d/few.conf <<'END'
[Service]
ExecStart=
ExecStart=udevadm trigger --action=add --subsystem-match=block --subsystem-match=virtio-ports --subsystem-match=tty \
    --subsystem-match=net --subsystem-match=misc --subsystem-match=mem
END

# The project's disk is laid over the system before systemd first starts, just as its packages would have put it there.
cat >/sbin/layer-init <<'END'
#!/bin/sh
if [ ! -e /var/lib/layered ]; then
    mount -t ext4 -o ro /dev/vdb /mnt && cp -a /mnt/. / && umount /mnt && touch /var/lib/layered
    # As a finished installation leaves them: otherwise systemd rebuilds its catalog and ld.so's cache now.
    touch /etc/.updated /var/.updated
fi
exec /sbin/init "$@"
END
chmod 755 /sbin/layer-init

# xl's guests log where a test can read it. Ten of them at once are not to be slowed by a free-memory dance.
echo 'XENCONSOLED_ARGS="--log=guest"' >>/etc/default/xen
sed -i 's/^#\?autoballoon=.*/autoballoon="off"/' /etc/xen/xl.conf
mkdir -p /etc/xen/auto /var/log/xen/console

# A small initrd starts faster than one for every machine.
cat >/etc/initramfs-tools/conf.d/small <<'END'
MODULES=list
COMPRESS=gzip
END
printf '%s\n' virtio_pci virtio_blk virtio_console ext4 crc32c >>/etc/initramfs-tools/modules
rm -f /boot/initrd.img-*
update-initramfs -c -k all

# The guest: this kernel, unpacked (each `xl create` would unpack it anew), and busybox with a netfront.
mkdir -p /var/lib/xen/guest /tmp/guest
python3 - /boot/vmlinuz-* /tmp/vmlinux.packed <<'END'
import struct, sys
image = open(sys.argv[1], "rb").read()
# Linux, Documentation/arch/x86/boot.rst: setup_sects, payload_offset, payload_length.
start = (image[0x1F1] + 1) * 512 + struct.unpack_from("<I", image, 0x248)[0]
length = struct.unpack_from("<I", image, 0x24C)[0]
# The last four bytes are the unpacked size.
open(sys.argv[2], "wb").write(image[start : start + length - 4])
END
if zstd -q -t /tmp/vmlinux.packed 2>/dev/null; then
    zstd -q -d -c /tmp/vmlinux.packed >/var/lib/xen/guest/vmlinux
else
    xz -d -c --format=xz /tmp/vmlinux.packed >/var/lib/xen/guest/vmlinux
fi
cd /tmp/guest
mkdir -p bin dev proc sys lib64 lib usr/bin
cp /bin/busybox bin/busybox
cp /usr/bin/xenstore bin/
for name in read write list rm; do ln -s xenstore "bin/xenstore-$name"; done
ldd /usr/bin/xenstore | grep -o '/[^ ]*' | while read -r library; do
    mkdir -p ".${library%/*}"
    cp -L "$library" ".$library"
done
module=$(find /lib/modules -name 'xen-netfront.ko*')
case $module in
    *.xz) xz -d -c "$module" >xen-netfront.ko ;;
    *) cp "$module" xen-netfront.ko ;;
esac
cp /root/guest-init init
chmod 755 init
find . | cpio -o -H newc --quiet >/var/lib/xen/guest/initramfs

rm -rf /root/customise.sh /root/guest-init /var/cache/apt/archives/*.deb /var/lib/apt/lists/*
