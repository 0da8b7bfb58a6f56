package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"lockstep/internal/lab"
	"lockstep/internal/realservers"
)

// peer is a real server with its real client. Those with the same script share the server.
type peer struct {
	Name   string // of the server
	Client string
	script string // scripts/<script>.sh
	play   string // the function in it; empty: play
	port   int
	more   [2][]int // ports of each server's own beside that
	// setup prepares the server; nil: the script has serve. dir has www, with a file of fileSize bytes.
	setup    func(server int, www, dir, address string) (realservers.Server, error)
	programs []string // as lab.CheckPrograms has them
	packages []string // of Debian's, whose versions say what was tried; empty: those of programs
	http     bool     // the adapter for log and hot
	// kept tells that it is tried under log and hot, too, where two servers have to say the same.
	kept bool
}

// fileSize is what peers with a setup serve, bytes.
const fileSize = 32 << 20

// ftpPorts are those of transfers, of each server its own.
var ftpPorts = [2][]int{{50000, 50001, 50002, 50003}, {50100, 50101, 50102, 50103}}

func peers() []peer {
	return []peer{
		{Name: "PostgreSQL", kept: true, Client: "psql", script: "postgresql", port: 5432, programs: []string{"/usr/lib/postgresql/15/bin/postgres:postgresql-15", "psql:postgresql-client-15"}},
		{Name: "MariaDB", Client: "mariadb", script: "mariadb", port: 3306, programs: []string{"mariadbd:mariadb-server", "mariadb:mariadb-client"}},
		{Name: "Redis", kept: true, Client: "redis-cli", script: "redis", port: 6379, programs: []string{"redis-server:redis-server", "redis-cli:redis-tools"}},
		{Name: "memcached", kept: true, Client: "pymemcache", script: "memcached", port: 11211, programs: []string{"memcached:memcached"}, packages: []string{"memcached", "python3-pymemcache"}},
		{Name: "mosquitto (MQTT)", Client: "mosquitto_pub, mosquitto_sub", script: "mosquitto", port: 1883, programs: []string{"mosquitto:mosquitto", "mosquitto_pub:mosquitto-clients"}},
		{Name: "RabbitMQ (AMQP)", Client: "amqp-publish, amqp-consume", script: "rabbitmq", port: 5672, programs: []string{"rabbitmqctl:rabbitmq-server", "amqp-publish:amqp-tools"}},
		{Name: "rsyslog, over TCP", kept: true, Client: "logger", script: "rsyslog", port: 514, programs: []string{"rsyslogd:rsyslog", "logger:bsdutils"}},
		{Name: "OpenSSH, a shell", Client: "ssh", script: "openssh", port: 22, programs: []string{"sshd:openssh-server", "ssh:openssh-client"}},
		{Name: "OpenSSH, files", Client: "sftp", script: "openssh", play: "play_sftp", port: 22, programs: []string{"sshd:openssh-server", "sftp:openssh-client"}},
		{Name: "BIRD (BGP, multihop)", Client: "BIRD", script: "bird", port: 179, programs: []string{"bird:bird2"}},
		{Name: "dcmtk (DICOM)", Client: "storescu", script: "dcmtk", port: 11112, programs: []string{"storescp:dcmtk", "storescu:dcmtk", "dump2dcm:dcmtk"}},
		{Name: "pymodbus (Modbus/TCP)", Client: "pymodbus", script: "modbus", port: 502, packages: []string{"python3-pymodbus", "python3-serial-asyncio"}},
		{Name: "nbd-server", kept: true, Client: "nbdcopy", script: "nbd", port: 10809, programs: []string{"nbd-server:nbd-server", "nbdcopy:libnbd-bin"}},
		{Name: "tgt (iSCSI)", Client: "libiscsi, by qemu-img", script: "iscsi", port: 3260, programs: []string{"tgtd:tgt", "iscsi-inq:libiscsi-bin", "qemu-img:qemu-utils"},
			packages: []string{"tgt", "libiscsi7", "qemu-utils"}},
		{Name: "gst-rtsp-server (RTSP, interleaved)", Client: "ffmpeg", script: "rtsp", port: 8554, programs: []string{"ffmpeg:ffmpeg"},
			packages: []string{"gir1.2-gst-rtsp-server-1.0", "ffmpeg"}},
		{Name: "Dovecot (IMAP)", Client: "curl", script: "dovecot", port: 143, programs: []string{"dovecot:dovecot-imapd", "curl:curl"}, packages: []string{"dovecot-imapd", "curl"}},
		{Name: "OpenLDAP", kept: true, Client: "ldapsearch", script: "slapd", port: 389, programs: []string{"slapd:slapd", "ldapsearch:ldap-utils"}},
		{Name: "Knot (DNS, a zone)", Client: "kdig", script: "knot", port: 53, programs: []string{"knotd:knot", "kdig:knot-dnsutils"}},
		{Name: "git daemon", Client: "git clone", script: "git", port: 9418, programs: []string{"git:git"}},
		{Name: "svnserve", Client: "svn", script: "svn", port: 3690, programs: []string{"svnserve:subversion"}},
		{Name: "nginx, a download", kept: true, Client: "curl", script: "nginx", port: 80, setup: nginx, http: true, programs: []string{"nginx:nginx", "curl:curl"}},
		{Name: "nginx, an upload", kept: true, Client: "curl", script: "nginx", play: "play_put", port: 80, setup: nginx, http: true, programs: []string{"nginx:nginx", "curl:curl"}},
		{Name: "Apache", Client: "wget", script: "apache", port: 81, http: true, setup: func(_ int, www, dir, _ string) (realservers.Server, error) { return realservers.Apache(www, dir) },
			programs: []string{"apache2:apache2-bin", "wget:wget"}},
		{Name: "vsftpd", Client: "curl", script: "vsftpd", port: 21, more: ftpPorts, setup: vsftpd, programs: []string{"vsftpd:vsftpd", "curl:curl"}},
		{Name: "rsync daemon", Client: "rsync", script: "rsync", port: 873, setup: func(_ int, www, dir, _ string) (realservers.Server, error) { return realservers.Rsync(www, dir) },
			programs: []string{"rsync:rsync"}},
	}
}

func nginx(_ int, www, dir, _ string) (realservers.Server, error) {
	return realservers.Nginx(www, dir, "www-data")
}

func vsftpd(server int, www, dir, address string) (realservers.Server, error) {
	ports := ftpPorts[server]
	return realservers.Vsftpd(www, dir, address, ports[0], ports[len(ports)-1])
}

// scriptArgs of bash, to run a function of a script.
func scriptArgs(dir, script, function string) []string {
	return []string{"-c", `. "$0/prelude.sh"; . "$0/$1.sh"; "$2"`, dir, script, function}
}

// server of a peer on the i-th server's host. address is where clients come.
func (p peer) server(i int, scripts, dir, address string) (realservers.Server, error) {
	if p.setup != nil {
		www := filepath.Join(dir, "www")
		if err := os.MkdirAll(www, 0o755); err != nil {
			return realservers.Server{}, err
		}
		if err := (realservers.File{Name: "file", Size: fileSize}).Create(www); err != nil {
			return realservers.Server{}, err
		}
		return p.setup(i, www, dir, address)
	}
	// Whatever it has in /run is of its own; and there is no name server that it could wait for.
	const serve = `mount -t tmpfs tmpfs /run && mount --bind /dev/null /etc/resolv.conf && cd "$1" && shift && exec bash "$@"`
	return realservers.Server{Program: "sh", Package: "dash", Port: p.port,
		Args: append([]string{"-c", serve, "sh", dir}, scriptArgs(scripts, p.script, "serve")...)}, nil
}

// missing says what has to be installed.
func (p peer) missing() error {
	err := lab.CheckPrograms(append([]string{"bash:bash", "openssl:openssl", "setsid:util-linux"}, p.programs...)...)
	for _, name := range p.debian() {
		if version(name) == "" {
			err = errors.Join(err, fmt.Errorf("not installed: %s (hint: apt-get install --no-install-recommends %s)", name, name))
		}
	}
	return err
}

// way is a mode and a fault.
type way struct{ mode, fault string }

// ways that a peer is tried in.
func (p peer) ways() (all []way) {
	add := func(modes []mode, faults []fault) {
		for _, m := range modes {
			for _, f := range faults {
				all = append(all, way{m.name, f.name})
			}
		}
	}
	add(gatewayModes, faults)
	if p.kept {
		add(keptModes, keptFaults)
	}
	return all
}
