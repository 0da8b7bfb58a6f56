package realservers

import (
	"path/filepath"
	"strings"
)

// Samba and rsync say things of their own in every connection (challenges, session numbers, where
// messages are cut). See docs/services.md.

const sambaConf = `
[global]
	server role = standalone server
	netbios name = FILES
	private dir = DIR
	lock directory = DIR
	state directory = DIR
	cache directory = DIR
	pid directory = DIR
	ncalrpc dir = DIR/rpc
	log file = DIR/log
	smb ports = 445
	disable netbios = yes
	map to guest = bad user
	load printers = no
	printcap name = /dev/null
	disable spoolss = yes
MORE
[files]
	path = WWW
	read only = no
	guest ok = yes
	force user = root
`

// Samba on port 445, with the share "files", which guests may write to. more are further lines of its global section, which win.
func Samba(share, dir string, more ...string) (Server, error) {
	conf := filepath.Join(dir, "smb.conf")
	err := write(conf, sambaConf, 0o644, "DIR", dir, "WWW", share, "MORE", "\t"+strings.Join(more, "\n\t"))
	return Server{Program: "smbd", Package: "samba", Port: 445, Args: []string{"-F", "--no-process-group", "-s", conf}}, err
}

const rsyncConf = `
use chroot = no
uid = root
gid = root
pid file = DIR/pid
lock file = DIR/lock
port = 873
[files]
path = WWW
read only = no
`

// Rsync is its daemon on port 873, with the module "files", which may be written to.
func Rsync(tree, dir string) (Server, error) {
	conf := filepath.Join(dir, "rsyncd.conf")
	err := write(conf, rsyncConf, 0o644, "DIR", dir, "WWW", tree)
	return Server{Program: "rsync", Package: "rsync", Port: 873, Args: []string{"--daemon", "--no-detach", "--config", conf}}, err
}
