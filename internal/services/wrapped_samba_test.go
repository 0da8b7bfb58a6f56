package services

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/lab/labtest"
	"lockstep/internal/realservers"
)

// sambaUser is what Samba needs more for a user, and for two servers to be equal.
const sambaUser = `
	aio read size = 0
	aio write size = 0
	server signing = mandatory
	smb encrypt = required
`

// sambaFor configures smbd for the i-th server: with a user, and a share of its own. It returns the command.
func sambaFor(b *bed, i int, files ...file) []string {
	b.t.Helper()
	name := fmt.Sprintf("s%d", i+1)
	www, dir, first := b.dir("share-"+name), b.dir("samba-"+name), b.dir("samba-s1")
	for _, f := range files {
		f.create(b.t, www)
	}
	server, err := realservers.Samba(www, dir)
	if err != nil {
		b.t.Fatal(err)
	}
	conf := filepath.Join(dir, "smb.conf")
	text, err := os.ReadFile(conf)
	if err != nil {
		b.t.Fatal(err)
	}
	b.write(conf, strings.Replace(string(text), "[files]", sambaUser+"[files]", 1), 0o644)
	if i == 0 {
		add := exec.Command("smbpasswd", "-c", conf, "-s", "-a", "root")
		add.Stdin = strings.NewReader("password\npassword\n")
		if out, err := add.CombinedOutput(); err != nil {
			b.t.Fatalf("adding a user: %v: %s", err, out)
		}
	}
	for _, file := range []string{"passdb.tdb", "secrets.tdb"} {
		text, err := os.ReadFile(filepath.Join(first, file))
		if err != nil {
			b.t.Fatal(err)
		}
		b.write(filepath.Join(dir, file), string(text), 0o600)
	}
	return append([]string{server.Program}, server.Args...)
}

// smbuser runs commands on the share, as the user.
func (l *load) smbuser(name string, in input, out output, commands string) *client {
	l.t.Helper()
	conf := filepath.Join(l.dir("home"), "smb.conf")
	l.write(conf, "[global]\n", 0o644)
	return l.run(name, in, out, "smbclient", "-s", conf, "-p", "8445", "-U", "root%password", "-c", commands, "//"+lab.VIP4+"/files")
}

// Encrypted sessions with Samba outlive their server, downloads and uploads, and the other server's share is whole; downloads also the appliance, and
// their server after it.
func TestWrappedSamba(t *testing.T) {
	labtest.RequirePrograms(t, "smbd:samba", "smbpasswd:samba-common-bin", "smbclient:smbclient")
	s := service{name: "samba", port: 8445, to: 445}
	b := layWrapped(t, s)
	commands := [2][]string{sambaFor(b, 0, medium), sambaFor(b, 1, medium)}
	// work has two clients at the same time. The servers are started together: what a session draws depends on what its parent has drawn (GnuTLS).
	work := func(node string, second func(l *load), fault func(first *lab.Proc)) {
		t.Helper()
		servers := [2]*lab.Proc{b.wrapped(0, commands[0]), b.wrapped(1, commands[1])}
		b.awaitTwins(s.to, servers[:]...)
		l := b.load()
		l.smbuser("get", nil, newSink(holdAt, l.free, medium.all()), "get medium -")
		second(l)
		l.through(func() { fault(servers[0]) })
		b.sound(node, s)
		b.Await("the connections are over", func() bool { return b.Kept(node, s.name).Connections == 0 })
		b.end(servers[1])
	}
	work("a", func(l *load) { l.smbuser("put", newFeed(holdAt, l.free, upload), nil, "put - upload") }, b.end)
	upload.whole(t, filepath.Join(b.Dir, "share-s2", "upload"))
	work("b", func(l *load) { l.smbuser("get again", nil, newSink(holdAt, l.free, medium.all()), "get medium -") }, func(first *lab.Proc) {
		b.Kill(b.a)
		b.Await("b is active", func() bool { return b.Status("b").Role == control.RoleActive })
		b.end(first)
	})
}
