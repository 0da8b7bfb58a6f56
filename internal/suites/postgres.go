package main

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"

	"lockstep/internal/lab"
)

const (
	pgBin     = "/usr/lib/postgresql/15/bin"
	pgLib     = "/usr/lib/postgresql/15/lib"
	pgRegress = "/usr/lib/postgresql/15/lib/pgxs/src/test/regress/pg_regress"
	pgInclude = "usr/include/postgresql/15/server"
)

// postgres is PostgreSQL's regression suite, its parallel schedule: some twenty sessions at a time.
func postgres() suite {
	return suite{
		name: "postgresql", says: "PostgreSQL's regression tests (pg_regress, parallel_schedule)", port: 5432,
		programs: []string{"gcc:gcc", "dpkg-source:dpkg-dev", pgBin + "/postgres:postgresql-15"},
		prepare:  preparePostgres, play: playPostgres,
	}
}

// asPostgres gives up root, which the server does not want.
func asPostgres(program string, args ...string) lab.Command {
	return lab.Command{Path: "setpriv", Args: append([]string{"--reuid=postgres", "--regid=postgres", "--clear-groups", "--", program}, args...),
		Env: []string{"LANG=C", "LC_ALL=C"}}
}

func preparePostgres(ctx context.Context, r *runner, dir string) error {
	src, version, err := debianSource(ctx, r.opts.sources, "postgresql-15", "postgresql-15")
	if err != nil {
		return err
	}
	r.version = version
	headers, err := debianFiles(ctx, r.opts.sources, "postgresql-server-dev-15", version)
	if err != nil {
		return err
	}
	// Functions in C that the tests load into the server.
	tests := filepath.Join(src, "src/test/regress")
	err = run(ctx, dir, "gcc", "-shared", "-fPIC", "-O1", "-w", "-I", filepath.Join(headers, pgInclude), "-I/usr/include/postgresql",
		"-o", "regress.so", filepath.Join(tests, "regress.c"))
	if err != nil {
		return err
	}
	for _, name := range []string{"autoinc.so", "refint.so"} { // contrib's, which one of the tests wants beside it
		if err := os.Symlink(filepath.Join(pgLib, name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if err := own(dir, "postgres"); err != nil {
		return err
	}
	data := filepath.Join(dir, "data")
	if _, err := program(ctx, r.server(), dir, "initdb", asPostgres(pgBin+"/initdb", "-D", data, "-A", "trust", "--no-locale", "-E", "UTF8", "-N")); err != nil {
		return err
	}
	conf := "listen_addresses = '*'\nunix_socket_directories = '" + dir + "'\nfsync = off\nmax_connections = 100\ntimezone = 'PST8PDT'\n" +
		"max_prepared_transactions = 2\ntcp_keepalives_idle = 600\n"
	if err := os.WriteFile(filepath.Join(data, "postgresql.auto.conf"), []byte(conf), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(data, "pg_hba.conf"), []byte("local all all trust\nhost all all all trust\n"), 0o644); err != nil {
		return err
	}
	c := asPostgres(pgBin+"/postgres", "-D", data)
	c.LogFile = filepath.Join(dir, "postgres.log")
	if _, err := r.server().Start(c); err != nil {
		return err
	}
	return listening(ctx, r.server(), 5432)
}

var pgLine = regexp.MustCompile(`(?m)^(?:test|    )\s*(\S+)\s+\.\.\. (ok|FAILED|failed)`)

func playPostgres(ctx context.Context, r *runner, host *lab.Host, address, dir string) (results, error) {
	src, _, err := debianSource(ctx, r.opts.sources, "postgresql-15", "postgresql-15")
	if err != nil {
		return nil, err
	}
	if err := own(dir, "postgres"); err != nil {
		return nil, err
	}
	tests := filepath.Join(src, "src/test/regress")
	out, err := program(ctx, host, dir, "pg_regress", asPostgres(pgRegress, "--bindir="+pgBin, "--inputdir="+tests, "--outputdir="+dir,
		"--dlpath="+filepath.Join(r.dir, "server"), "--schedule="+filepath.Join(tests, "parallel_schedule"), "--host="+address, "--port=5432",
		"--user=postgres", "--max-connections=20"))
	if err != nil {
		return nil, err
	}
	got := results{}
	for _, m := range pgLine.FindAllStringSubmatch(out, -1) {
		got[m[1]] = m[2]
	}
	if len(got) < 100 {
		return got, fmt.Errorf("pg_regress has run %d tests only:\n%s", len(got), tail(out))
	}
	return got, nil
}

// own gives a directory to a user.
func own(dir, name string) error {
	u, err := user.Lookup(name)
	if err != nil {
		return err
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	return os.Chown(dir, uid, gid)
}

func tail(s string) string {
	if len(s) > 2000 {
		s = s[len(s)-2000:]
	}
	return s
}
