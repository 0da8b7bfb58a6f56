package services

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lockstep/appliance/config"
	"lockstep/internal/lab"
	"lockstep/internal/lab/labtest"
)

// bigSize of the large file. SERVICES_BIG_MIB=1024 tries more by hand.
var bigSize = func() int64 {
	var n int64
	if _, err := fmt.Sscan(os.Getenv("SERVICES_BIG_MIB"), &n); err == nil && n > 0 {
		return n * mib
	}
	return 64 * mib
}()

// The files of the servers, and what is uploaded.
var (
	big    = file{"big", bigSize}
	medium = file{"medium", 12 * mib}
	upload = file{"upload", 8 * mib}
	small  = []file{{"1k", kib}, {"10k", 10*kib + 1}, {"100k", 100*kib + 7}, {"1m", mib + 3}}
)

// holdAt is how many bytes have passed when a client is held for the fault.
const holdAt = mib

// webServices are one service per protection that masks the loss of a server.
func webServices(w webserver) []service {
	return []service{
		{name: "log", port: 8001, to: w.port, protection: config.ProtectLog, http: true},
		{name: "hot", port: 8002, to: w.port, protection: config.ProtectHot, http: true},
		{name: "first", port: 8003, to: w.port, protection: config.ProtectHot, http: true, set: func(s *config.Service) { s.Release = config.ReleaseFirst }},
	}
}

func TestNginx(t *testing.T) {
	labtest.RequirePrograms(t, "nginx:nginx", "curl:curl", "wget:wget")
	testWeb(t, nginx, big, (*webLoad).put)
}

func TestApache(t *testing.T) {
	labtest.RequirePrograms(t, "apache2:apache2-bin", "curl:curl", "wget:wget")
	testWeb(t, apache, medium, (*webLoad).post)
}

// Downloads large and small, ranges, connections that are used again and uploads are under way
// through every protection; then the primary server is killed with all its processes. It is
// started again; everything is under way once more, and the active appliance is killed.
func testWeb(t *testing.T, w webserver, large file, upload func(*webLoad)) {
	services := webServices(w)
	var servers [2]*daemon
	b := lay(t, services, func(b *bed) { servers = w.start(b, append([]file{big, medium}, small...)) })
	round := func(name string, large file, fault func()) {
		l := b.load()
		for _, s := range services {
			x := &webLoad{load: l, name: s.name + "-" + name, url: fmt.Sprintf("http://%s:%d/", lab.VIP4, s.port)}
			x.keepAlive()
			if s.name == "first" { // the same but for the moment at which a byte leaves
				x.download(medium)
				continue
			}
			x.download(large)
			x.ranges()
			x.wget()
			upload(x)
		}
		l.through(fault)
	}
	round("server", large, servers[0].kill)
	for _, s := range services {
		k := b.sound("a", s)
		if k.Failovers+k.Switched == 0 {
			t.Errorf("%s: no connection was continued by the other server", s.name)
		}
	}
	servers[0].start()
	b.awaitHealthy("a")
	round("appliance", medium, func() { b.Kill(b.a) })
	for _, s := range services {
		b.sound("b", s)
	}
}

// webLoad is what clients do through one service.
type webLoad struct {
	*load
	name string
	url  string
}

func (x *webLoad) sink(want ...part) *sink { return newSink(holdAt, x.free, want...) }

// onConnect makes curl say how many connections it has opened for a request. If one that it uses
// again dies before the answer it tries again on a new one, without a word.
var onConnect = []string{"-sS", "--fail", "--http1.1", "-w", "%{stderr}connects %{num_connects}\n"}

// curl runs curl, which must need one connection for all its requests.
func (x *webLoad) curl(what string, in input, out output, args ...string) *client {
	x.t.Helper()
	c := x.run(x.name+" "+what, in, out, "curl", append(append([]string{}, onConnect...), args...)...)
	c.more = func() {
		said := c.err.String()
		if strings.Count(said, "connects 1") != 1 || strings.Count(said, "connects ") != 1+strings.Count(said, "connects 0") {
			x.t.Errorf("%s: not one connection:\n%s", c.name, said)
		}
	}
	return c
}

// download is one large file.
func (x *webLoad) download(f file) { x.curl("download", nil, x.sink(f.all()), x.url+f.name) }

// ranges asks for parts on one connection. For several ranges the servers send the whole file.
func (x *webLoad) ranges() {
	from, to := int64(123457), medium.size-100
	args := []string{"-r", fmt.Sprintf("%d-%d", from, to-1), x.url + medium.name}
	for _, r := range [][2]string{{"-1000", medium.name}, {"0-9,20-29", small[0].name}} {
		args = append(append(append(args, "--next"), onConnect...), "-r", r[0], x.url+r[1])
	}
	x.curl("ranges", nil, x.sink(medium.piece(from, to), medium.piece(medium.size-1000, medium.size), small[0].all()), args...)
}

// keepAlive asks for many small files on one connection.
func (x *webLoad) keepAlive() {
	var args []string
	var want []part
	for range 6 {
		for _, f := range small {
			args, want = append(args, x.url+f.name), append(want, f.all())
		}
	}
	x.curl("small files", nil, x.sink(want...), args...)
}

// wget uses its connection again, too; it tries only once.
func (x *webLoad) wget() {
	args := []string{"-nv", "--tries=1", "--no-config", "-O", "-", x.url + medium.name}
	want := []part{medium.all()}
	for _, f := range small {
		args, want = append(args, x.url+f.name), append(want, f.all())
	}
	x.run(x.name+" wget", nil, x.sink(want...), "wget", args...)
}

// put uploads with PUT, in chunks since curl does not know the size.
func (x *webLoad) put() {
	name := strings.ReplaceAll(x.name, " ", "-")
	c := x.curl("PUT", newFeed(holdAt, x.free, upload), nil, "-T", "-", x.url+"up/"+name)
	once := c.more
	c.more = func() {
		once()
		found := 0
		for _, host := range []string{"s1", "s2"} {
			if path := filepath.Join(x.Dir, "nginx-"+host, "up", name); sizeOf(path) > 0 {
				upload.whole(x.t, path)
				found++
			}
		}
		if found == 0 {
			x.t.Errorf("%s: no server has the file", c.name)
		}
	}
}

// post uploads with POST and a known length, to a program that answers with the digest of what it
// has got.
func (x *webLoad) post() {
	path := filepath.Join(x.dir("client"), x.name+"-sum")
	c := x.curl("POST", newFeed(holdAt, x.free, upload), nil, "-X", "POST", "-T", "-", "-o", path,
		"-H", "Transfer-Encoding:", "-H", fmt.Sprintf("Content-Length: %d", upload.size), x.url+"cgi/sum")
	once := c.more
	c.more = func() {
		once()
		h := sha256.New()
		_, err1 := io.Copy(h, newFeed(upload.size, nil, upload))
		got, err2 := os.ReadFile(path)
		if want := hex.EncodeToString(h.Sum(nil)); err1 != nil || err2 != nil || !strings.HasPrefix(string(got), want) {
			x.t.Errorf("%s: the digest is %.80q, not %s (%v, %v)", c.name, got, want, err1, err2)
		}
	}
}
