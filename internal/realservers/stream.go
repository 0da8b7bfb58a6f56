package realservers

import "path/filepath"

const icecastConf = `<icecast>
<location>lab</location><admin>nobody@lockstep.test</admin><hostname>lockstep.test</hostname>
<limits><clients>100</clients><sources>4</sources><queue-size>16777216</queue-size><burst-on-connect>0</burst-on-connect>
<header-timeout>30</header-timeout><client-timeout>60</client-timeout><source-timeout>60</source-timeout></limits>
<authentication><source-password>secret</source-password><admin-user>admin</admin-user><admin-password>secret</admin-password></authentication>
<listen-socket><port>8000</port></listen-socket>
<fileserve>1</fileserve>
<paths><basedir>DIR</basedir><logdir>DIR</logdir><webroot>WWW</webroot><adminroot>DIR</adminroot></paths>
<logging><accesslog>access.log</accesslog><errorlog>error.log</errorlog><loglevel>2</loglevel></logging>
<security><chroot>0</chroot><changeowner><user>nobody</user><group>nogroup</group></changeowner></security>
</icecast>
`

// Icecast on port 8000: the stored files of www, and live streams of whoever knows the password
// "secret".
func Icecast(www, dir string) (Server, error) {
	if err := makeDir(dir, 0o777); err != nil { // it gives up root before it opens its logs
		return Server{}, err
	}
	conf := filepath.Join(dir, "icecast.xml")
	err := write(conf, icecastConf, 0o644, "DIR", dir, "WWW", www)
	return Server{Program: "icecast2", Package: "icecast2", Port: 8000, Args: []string{"-c", conf}}, err
}
