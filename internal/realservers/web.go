package realservers

import (
	"os"
	"path/filepath"
)

// Two nginx give the same bytes, but for Date, if
//   - files have the same size and modification time (Last-Modified, ETag);
//   - no connection is ended after so many requests: a server that a connection was moved to
//     counts from its own first one, so it would go on where the other says Connection: close;
//   - a request for several ranges gets the whole file: the boundary between the parts is a number
//     of the server's own.
const nginxConf = `
daemon off;
worker_processes 2;
user USER;
pid DIR/nginx.pid;
error_log stderr warn;
events { worker_connections 256; }
http {
	access_log off;
	default_type application/octet-stream;
	sendfile on;
	keepalive_requests 1000000000;
	keepalive_timeout 300s;
	max_ranges 1;
	client_max_body_size 0;
	client_body_temp_path DIR/body;
	proxy_temp_path DIR/proxy;
	fastcgi_temp_path DIR/fastcgi;
	uwsgi_temp_path DIR/uwsgi;
	scgi_temp_path DIR/scgi;
	server {
		listen 80;
		root WWW;
		location /up/ { root DIR; dav_methods PUT; }
	}
}
`

// Nginx on port 80. PUT below /up/ writes to dir/up. user is whose rights its workers have.
func Nginx(www, dir, user string) (Server, error) {
	for _, sub := range []string{"body", "up"} {
		if err := makeDir(filepath.Join(dir, sub), 0o777); err != nil {
			return Server{}, err
		}
	}
	conf := filepath.Join(dir, "nginx.conf")
	err := write(conf, nginxConf, 0o644, "DIR", dir, "WWW", www, "USER", user)
	return Server{Program: "nginx", Package: "nginx-light", Port: 80, Args: []string{"-c", conf, "-p", dir, "-e", "stderr"}}, err
}

// Two Apaches give the same bytes, but for Date, under the same conditions. MaxKeepAliveRequests
// 0 also leaves the countdown out of the Keep-Alive field, whose length would change.
const apacheConf = `
ServerRoot DIR
DefaultRuntimeDir DIR
PidFile DIR/apache.pid
ServerName lockstep.test
Listen 81
User www-data
Group www-data
ErrorLog /dev/stderr
Mutex file:DIR default
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule alias_module /usr/lib/apache2/modules/mod_alias.so
LoadModule cgid_module /usr/lib/apache2/modules/mod_cgid.so
LoadModule env_module /usr/lib/apache2/modules/mod_env.so
SetEnv ap_trust_cgilike_cl yes
StartServers 1
ThreadsPerChild 25
ScriptSock DIR/cgid.sock
DocumentRoot WWW
MaxKeepAliveRequests 0
KeepAliveTimeout 300
MaxRanges 1
ScriptAlias /cgi/ DIR/cgi/
`

// sumScript answers a POST with the digest of what it was sent. It says how long its answer is, and
// Apache is told to believe it: by itself it sends chunks unless it sees the program's end together
// with its first bytes, so that two servers would differ by chance.
const sumScript = "#!/bin/sh\nprintf 'Content-Type: text/plain\\nContent-Length: 68\\n\\n'\nexec sha256sum -b\n"

// Apache on port 81. A POST to /cgi/sum is answered with the SHA-256 of its body, as sha256sum
// writes it.
func Apache(www, dir string) (Server, error) {
	if err := makeDir(filepath.Join(dir, "cgi"), 0o755); err != nil {
		return Server{}, err
	}
	if err := write(filepath.Join(dir, "cgi", "sum"), sumScript, 0o755); err != nil {
		return Server{}, err
	}
	conf := filepath.Join(dir, "apache.conf")
	err := write(conf, apacheConf, 0o644, "DIR", dir, "WWW", www)
	return Server{Program: "apache2", Package: "apache2-bin", Port: 81, Args: []string{"-f", conf, "-DFOREGROUND"}}, err
}

// makeDir makes a directory with exactly this mode, whatever the umask: servers give up root.
func makeDir(dir string, mode os.FileMode) error {
	if err := os.MkdirAll(dir, mode); err != nil {
		return err
	}
	return os.Chmod(dir, mode)
}
