package services

import (
	"fmt"
	"path/filepath"

	"lockstep/internal/realservers"
)

// webserver is a kind of web server, and how one is set up so that two of them replicate.
type webserver struct {
	name string
	port int
	// setup writes the configuration of one.
	setup func(www, dir string) (realservers.Server, error)
}

var (
	nginx = webserver{"nginx", 80, func(www, dir string) (realservers.Server, error) {
		return realservers.Nginx(www, dir, "www-data")
	}}
	apache = webserver{"apache2", 81, realservers.Apache}
)

// start runs the web server on s1 and s2, each with a copy of the files of its own.
func (w webserver) start(b *bed, files []file) (servers [2]*daemon) {
	for i := range servers {
		www, dir := b.dir(fmt.Sprintf("www-s%d", i+1)), b.dir(fmt.Sprintf("%s-s%d", w.name, i+1))
		for _, f := range files {
			f.create(b.t, www)
		}
		servers[i] = b.daemon(i, w.setup, www, dir)
		// Apache's socket is named after its process number, which is the same again here.
		servers[i].left = filepath.Join(dir, "cgid.sock*")
	}
	return servers
}
