# Runs in a chroot over the base: installs the project from its sources, then what makes this machine a test machine.
cp -r /tmp/source /tmp/build
cd /tmp/build
packaging/install
systemctl -q enable xennetd.service
/usr/bin/python3 packaging/xlconf.py switch /etc/xen/xl.conf

# What packaging/install gets from PyPI, for when it is run in the machine, which has no network.
python=/usr/lib/xennetd/bin/python3
$python -m pip list --local --format=freeze --exclude xennetd --exclude pip --exclude setuptools >/tmp/requirements
$python -m pip -q wheel --no-deps --wheel-dir /var/lib/xennetd-test/wheels -r /tmp/requirements 'setuptools>=66'

cd tests/image
install -D -m 755 agent.py /usr/local/lib/xennetd-test/agent.py
cp -r etc/. /etc/
