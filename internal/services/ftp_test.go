package services

import (
	"fmt"
	"path/filepath"
	"testing"

	"lockstep/internal/lab"
	"lockstep/internal/lab/labtest"
	"lockstep/internal/realservers"
)

// ftpPorts are those of a server's transfers. Each server has its own and each port is a service that
// leads to it alone, so that a transfer reaches the server to which its session goes. They are not
// probed: between two transfers nobody listens, and in one a probe would be taken for the client.
var ftpPorts = [2]struct{ first, last int }{{50000, 50031}, {50100, 50131}}

func ftpServices() []service {
	all := []service{{name: "ftp", port: 21, to: 21}}
	for i, server := range []string{"10.20.0.11", "10.20.0.12"} {
		for port := ftpPorts[i].first; port <= ftpPorts[i].last; port++ {
			all = append(all, service{name: fmt.Sprintf("ftp-%d", port), port: port, to: port, only: server,
				unprobed: true})
		}
	}
	return all
}

func TestVsftpd(t *testing.T) {
	labtest.RequirePrograms(t, "vsftpd:vsftpd", "curl:curl")
	var servers [2]*daemon
	b := lay(t, ftpServices(), func(b *bed) {
		for i := range servers {
			www, dir := b.dir(fmt.Sprintf("ftp-s%d", i+1)), b.dir(fmt.Sprintf("vsftpd-s%d", i+1))
			for _, f := range append([]file{medium}, small...) {
				f.create(b.t, www)
			}
			servers[i] = b.daemon(i, func(www, dir string) (realservers.Server, error) {
				return realservers.Vsftpd(www, dir, lab.VIP4, ftpPorts[i].first, ftpPorts[i].last)
			}, www, dir)
		}
	})
	const url = "ftp://" + lab.VIP4 + "/"
	// curl asks for a transfer with EPSV, which is answered with a port only, or with PASV, which is
	// answered with an address too.
	pasv := []string{"-sS", "--disable-epsv", "--no-ftp-skip-pasv-ip"}
	t.Run("appliance killed", func(t *testing.T) {
		l := b.load()
		l.run("get", nil, newSink(holdAt, l.free, medium.all()), "curl", "-sS", url+medium.name)
		l.run("get with PASV", nil, newSink(holdAt, l.free, medium.all()), "curl", append(pasv, url+medium.name)...)
		l.run("put", newFeed(holdAt, l.free, upload), nil, "curl", "-sS", "-T", "-", url+"up/"+upload.name)
		// One session, and a transfer for each file, most of them after the fault.
		args, want := []string{"-sS", url + medium.name}, []part{medium.all()}
		for _, f := range small {
			args, want = append(args, url+f.name), append(want, f.all())
		}
		l.run("many", nil, newSink(holdAt, l.free, want...), "curl", args...)
		l.through(func() { b.Kill(b.a) })
		upload.whole(t, filepath.Join(b.Dir, "ftp-s1", "up", upload.name))
	})
	t.Run("server killed", func(t *testing.T) {
		l := b.load()
		l.run("get", nil, newSink(holdAt, l.free, medium.all()), "curl", "-sS", url+medium.name)
		l.lostBy(servers[0].kill)
		// The client is told, and finds the other server when it comes again.
		l = b.load()
		l.run("get again", nil, newSink(0, l.free, medium.all()), "curl", append(pasv, url+medium.name)...)
		l.finish()
	})
}
