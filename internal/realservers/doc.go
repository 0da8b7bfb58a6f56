// Package realservers knows how the servers of Debian's packages are run for a while: their
// configuration files, their commands, and how all of their processes are killed at once.
//
// Everything a server reads and writes is in directories that the caller gives it; nothing of the
// system's configuration is read or changed. It knows nothing of tests or appliances: who connects,
// and what for, is the caller's business.
//
//	web.go     nginx and Apache
//	file.go    Samba and rsync
//	ftp.go     vsftpd
//	stream.go  Icecast
//	content.go the files that they serve
//	daemon.go  a running server
package realservers
