package realservers

import (
	"fmt"
	"os"
	"path/filepath"
)

// FTP's transfers are connections of their own, to a port that the server chooses and tells. See
// docs/services.md.
const vsftpdConf = `
listen=YES
listen_port=21
background=NO
anonymous_enable=YES
local_enable=NO
write_enable=YES
anon_upload_enable=YES
anon_umask=022
no_anon_password=YES
anon_root=WWW
secure_chroot_dir=DIR/empty
xferlog_enable=NO
port_enable=NO
pasv_address=ADDRESS
pasv_min_port=FIRST
pasv_max_port=LAST
`

// Vsftpd on port 21, for anybody. It tells clients to open transfers to address, at a port from first
// to last. Uploads go to www/up.
func Vsftpd(www, dir, address string, first, last int) (Server, error) {
	for path, mode := range map[string]os.FileMode{
		www:                         0o755, // it refuses a root that its user can write to
		filepath.Join(www, "up"):    0o777,
		filepath.Join(dir, "empty"): 0o755,
	} {
		if err := makeDir(path, mode); err != nil {
			return Server{}, err
		}
	}
	conf := filepath.Join(dir, "vsftpd.conf")
	err := write(conf, vsftpdConf, 0o644, "DIR", dir, "WWW", www, "ADDRESS", address, "FIRST", fmt.Sprint(first), "LAST", fmt.Sprint(last))
	return Server{Program: "vsftpd", Package: "vsftpd", Port: 21, Args: []string{conf}}, err
}
