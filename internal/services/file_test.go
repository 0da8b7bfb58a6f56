package services

import (
	"fmt"
	"path/filepath"
	"testing"

	"lockstep/internal/lab"
	"lockstep/internal/lab/labtest"
	"lockstep/internal/realservers"
)

// Samba and rsync say things of their own in every connection (challenges, session numbers, where
// messages are cut), so only gateway protects them. See docs/services.md.

// samba runs smbd on s1 and s2.
func samba(b *bed, files ...file) (servers [2]*daemon) {
	for i := range servers {
		www, dir := b.dir(fmt.Sprintf("share-s%d", i+1)), b.dir(fmt.Sprintf("samba-s%d", i+1))
		for _, f := range files {
			f.create(b.t, www)
		}
		servers[i] = b.daemon(i, func(share, dir string) (realservers.Server, error) { return realservers.Samba(share, dir) }, www, dir)
	}
	return servers
}

// smbclient runs commands on the share, as a guest.
func (l *load) smbclient(name string, in input, out output, commands string) *client {
	l.t.Helper()
	conf := filepath.Join(l.dir("home"), "smb.conf")
	l.write(conf, "[global]\n", 0o644)
	return l.run(name, in, out, "smbclient", "-s", conf, "-p", "8445", "-N", "-c", commands, "//"+lab.VIP4+"/files")
}

func TestSamba(t *testing.T) {
	labtest.RequirePrograms(t, "smbd:samba", "smbclient:smbclient")
	services := []service{{name: "samba", port: 8445, to: 445}}
	var servers [2]*daemon
	b := lay(t, services, func(b *bed) { servers = samba(b, medium) })
	t.Run("appliance killed", func(t *testing.T) {
		l := b.load()
		l.smbclient("get", nil, newSink(holdAt, l.free, medium.all()), "get medium -")
		l.smbclient("put", newFeed(holdAt, l.free, upload), nil, "put - upload")
		l.through(func() { b.Kill(b.a) })
		upload.whole(t, filepath.Join(b.Dir, "share-s1", "upload"))
	})
	t.Run("server killed", func(t *testing.T) {
		l := b.load()
		l.smbclient("get", nil, newSink(holdAt, l.free, medium.all()), "get medium -")
		l.lostBy(servers[0].kill)
		// The client is told, and finds the other server when it comes again.
		l = b.load()
		l.smbclient("get again", nil, newSink(0, l.free, medium.all()), "get medium -")
		l.finish()
	})
}

func TestRsync(t *testing.T) {
	labtest.RequirePrograms(t, "rsync:rsync")
	services := []service{{name: "rsync", port: 8873, to: 873}}
	// rsync is slow while its fault is awaited (--bwlimit), and remains so.
	down, up := file{"down", 6 * mib}, file{"up", 4 * mib}
	tree := append([]file{down}, small...)
	var servers [2]*daemon
	b := lay(t, services, func(b *bed) {
		for i := range servers {
			www, dir := b.dir(fmt.Sprintf("tree-s%d", i+1)), b.dir(fmt.Sprintf("rsync-s%d", i+1))
			for _, f := range tree {
				f.create(t, www)
			}
			servers[i] = b.daemon(i, realservers.Rsync, www, dir)
		}
	})
	const url = "rsync://" + lab.VIP4 + ":8873/files/"
	s1 := filepath.Join(b.Dir, "tree-s1")
	t.Run("appliance killed", func(t *testing.T) {
		l, here, there := b.load(), b.dir("here"), b.dir("there")
		up.create(t, there)
		l.rsync("download", "--bwlimit=4m", url, here+"/").hold(here, "", 2*mib)
		l.rsync("upload", "--bwlimit=2m", there+"/", url).hold(s1, "."+up.name, mib)
		l.through(func() { b.Kill(b.a) })
		for _, f := range tree {
			f.whole(t, filepath.Join(here, f.name))
		}
		up.whole(t, filepath.Join(s1, up.name))
	})
	t.Run("server killed", func(t *testing.T) {
		l, here := b.load(), b.dir("again")
		l.rsync("download", "--bwlimit=4m", url, here+"/").hold(here, "", 2*mib)
		l.lostBy(servers[0].kill)
		// Told to do it again, it goes on where it was, with the other server.
		l = b.load()
		l.rsync("download again", url, here+"/")
		l.finish()
		for _, f := range tree {
			f.whole(t, filepath.Join(here, f.name))
		}
	})
}

func (l *load) rsync(name string, args ...string) *client {
	l.t.Helper()
	return l.run(name, nil, nil, "rsync", append([]string{"-a", "--partial", "--timeout=60"}, args...)...)
}

// hold stops the client when the files of dir have grown so far.
func (c *client) hold(dir, name string, size int64) {
	c.stop = &grown{dir: dir, name: name, size: size, proc: c.proc}
}
