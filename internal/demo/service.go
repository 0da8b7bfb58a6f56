package demo

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"lockstep/appliance/config"
	"lockstep/internal/lab"
	"lockstep/internal/realservers"
)

// service is a kind of real server with its real client, see docs/services.md.
type service struct {
	name        string
	protections []string // that work; the first is the default
	http        bool     // the protocol adapter that log and hot use; false: raw
	port        int
	size        int64 // the default, bytes
	rmem        int64 // the most that the client receives ahead, bytes; 0: as much as its kernel likes
	setup       func(www, dir string) (realservers.Server, error)
	// client is the command that fetches url's file to the path out.
	client  func(url, out string) (program string, args []string)
	pkg     string // Debian's, of the client
	url     string // of the file
	root    bool   // the server gives up root, which a user namespace with one user cannot
	resumes bool   // the client goes on where it was, when it is run again
	server  string // in words
	says    string // what the client does
}

// streamRate is at which the stream is played, bytes a second: twice that of a 4K film, so that the
// demo does not last as long as one.
const streamRate = 4 << 20

// served is the name of the file that servers serve and the client fetches.
const served = "served"

var services = []service{
	{
		name: "web", protections: []string{string(config.ProtectHot), string(config.ProtectLog), string(config.ProtectGateway)}, http: true, port: 80, size: 256 << 20,
		// Its workers stay root: they are alone in their namespaces, and root may be the only user there.
		setup:  func(www, dir string) (realservers.Server, error) { return realservers.Nginx(www, dir, "root root") },
		client: curl(), pkg: "curl", url: "http://" + lab.VIP4 + "/" + served, server: "nginx", says: "downloads",
	},
	{
		name: "file", protections: []string{string(config.ProtectGateway)}, port: 873, size: 256 << 20,
		setup: realservers.Rsync,
		client: func(url, out string) (string, []string) {
			return "rsync", []string{"--partial", "--inplace", "--times", "--timeout=60", url, out}
		},
		pkg: "rsync", url: "rsync://" + lab.VIP4 + "/files/" + served, root: true, resumes: true, server: "rsync", says: "fetches",
	},
	{
		name: "stream", protections: []string{string(config.ProtectHot), string(config.ProtectLog), string(config.ProtectGateway)}, http: true, port: 8000, size: 48 << 20, rmem: 512 << 10,
		setup:  realservers.Icecast,
		client: curl("--limit-rate", fmt.Sprint(streamRate)), pkg: "curl", url: "http://" + lab.VIP4 + ":8000/" + served, root: true, server: "Icecast", says: "plays",
	},
}

// curl without any settings of the user's, which does not try again by itself.
func curl(more ...string) func(url, out string) (string, []string) {
	return func(url, out string) (string, []string) {
		return "curl", slices.Concat([]string{"-q", "-sS", "--fail", "--http1.1", "--no-buffer"}, more, []string{"-o", out, url})
	}
}

func serviceNames() string {
	var names []string
	for _, s := range services {
		names = append(names, s.name)
	}
	return strings.Join(names, ", ")
}

// real is the service that was asked for; nil: the demo's own servers.
func (o options) real() *service {
	for i := range services {
		if services[i].name == o.service {
			return &services[i]
		}
	}
	return nil
}

// port of the service, on the virtual address and on the servers.
func (o options) port() int {
	if s := o.real(); s != nil {
		return s.port
	}
	return servicePort
}

// settleService fills in what was not asked for, where a real service is shown.
func (o *options) settleService(changed func(flag string) bool) {
	s := o.real()
	if s == nil {
		return
	}
	if !changed("fault") {
		o.fault = faultServerKill
	}
	if !changed("protection") {
		o.protection = s.protections[0]
	}
	if !changed("size") {
		o.size = s.size
	}
	if !changed("connections") {
		o.idle = 0
	}
	if !changed("direction") {
		o.direction = dirDownload
	}
}

// checkService refuses what a real service does not show.
func (o options) checkService() error {
	s := o.real()
	switch {
	case o.service == "":
		return nil
	case s == nil:
		return fmt.Errorf("--service: %q is none of %s", o.service, serviceNames())
	case o.vm != "":
		return errors.New("--service: not with --vm")
	case o.fault != faultServerKill && o.fault != faultKill:
		return fmt.Errorf("--fault: %q is none of %s, %s, with --service", o.fault, faultServerKill, faultKill)
	case o.rounds != 1:
		return errors.New("--rounds: with --service there is one")
	case o.idle != 0:
		return errors.New("--connections: with --service there is the client's only")
	case o.direction != dirDownload:
		return errors.New("--direction: with --service it is download")
	case !slices.Contains(s.protections, o.protection):
		return fmt.Errorf("--protection: two servers of --service %s do not send the same bytes, so %s would reset its connections; only %s works (see docs/services.md)",
			s.name, o.protection, strings.Join(s.protections, ", "))
	}
	return nil
}

// ready tells whether the service can be shown here.
func (s *service) ready(server realservers.Server) error {
	client, _ := s.client("", "")
	if err := lab.CheckPrograms(server.Program+":"+server.Package, client+":"+s.pkg, "unshare:util-linux"); err != nil {
		return fmt.Errorf("--service %s: %w", s.name, err)
	}
	if s.root && !hasUsers() {
		return fmt.Errorf("--service %s: %s changes its user, and in a user namespace there is no other (hint: run as root, or --service web)", s.name, server.Program)
	}
	return nil
}

// hasUsers tells whether there are other users than root in this user namespace.
func hasUsers() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	var first, outside, size uint64
	if err == nil {
		_, err = fmt.Sscan(string(text), &first, &outside, &size)
	}
	return err != nil || size > 1
}

// serving is what a real service's configuration has. A server that was killed refuses a probe at
// once; a busy one has time.
func (o options) serving(svc *config.Service) {
	svc.Health = config.Health{Interval: 2 * time.Second, Timeout: 2 * time.Second, TCP: true, Canary: true}
	if o.real().http && o.kept() {
		svc.Protocol = config.ProtocolHTTP
	}
	if o.kept() {
		svc.Patience = defaultPatience
	}
}

// contentOf a server is the file that it serves.
func contentOf(dir, host string) string { return filepath.Join(dir, "content-"+host, served) }

// configure writes the configuration of a server on that host, below dir, with nothing to serve yet.
func (s *service) configure(dir, host string) (realservers.Server, error) {
	www, own := filepath.Dir(contentOf(dir, host)), filepath.Join(dir, "server-"+host)
	for _, d := range []string{www, own} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return realservers.Server{}, err
		}
		if err := os.Chmod(d, 0o755); err != nil { // whatever the umask: the server may give up root
			return realservers.Server{}, err
		}
	}
	return s.setup(www, own)
}

// resumes tells whether the client program goes on by itself, when it is run again, where a
// connection ended with its server.
func (o options) resumes() bool { s := o.real(); return s != nil && s.resumes }

// serviceStory says who serves whom.
func (o options) serviceStory() string {
	s := o.real()
	client, _ := s.client("", "")
	return fmt.Sprintf("%s: %s on s1 and s2, %s %s a file of %v; protection: %s", s.name, s.server, client, s.says, config.Size(o.size), o.protects())
}
