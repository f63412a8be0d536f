# Runs in a chroot over the base: installs the project from its sources, then what makes this machine a test machine.
cp -r /tmp/source /tmp/build
cd /tmp/build
packaging/install
systemctl -q enable xennetd.service
/usr/bin/python3 packaging/xlconf.py switch /etc/xen/xl.conf

cd tests/image
install -D -m 755 agent.py /usr/local/lib/xennetd-test/agent.py
cp -r etc/. /etc/
