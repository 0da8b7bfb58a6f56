package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"lockstep/replication/identity"
	"lockstep/wrap"
	"lockstep/wrap/agree"
	"lockstep/wrap/determinant"
)

// becomeWrapped plays the processes between a supervisor and its program, which are this executable.
func becomeWrapped() { wrap.Main() }

func wrapCommands() []*cobra.Command {
	var o wrapOptions
	cmd := &cobra.Command{
		Use:   "wrap [flags] -- COMMAND [ARGS...]",
		Short: "Run a server program so that two of them send the same bytes",
		Long: `Runs an unmodified server program and decides itself what those of its system calls return that depend
on more than the request: getrandom and read of the random devices; the time by time, gettimeofday and
clock_gettime; numbers of processes; what stat and statfs say; the order of directories. Two servers of one
program, configuration and content, each wrapped and asking one authority, can then answer the same request with
the same bytes, also salts, keys and what is signed or encrypted with them. TLS of openssl does, and so does smbd
with NTLM, signed and encrypted. Try it with your server before you count on it.

Not seen, so that a program which sends what it gets there differs: readv and pread of random devices,
/proc/sys/kernel/random/uuid, RDRAND, RDTSC, getrusage, times, sysinfo, what else /proc and /sys tell, and the
numbers of files within directories (d_ino: this server's, which may be others than those that stat tells).

Who decides is the pair of appliances (` + "`authority`" + ` in its configuration): --authority names both, and whichever is the
active answers, when the other one holds the answer, too. Or it is a process (--decide): at a socket, for servers of one machine,
or at an address; nothing of it is kept elsewhere. Servers on hosts of their own and who decides know each other by keys (lockstep keys
--servers). Without an answer in time connections go on with results of each server's own, which differ. Behind a pair with hot
and raw those have no second server then; what differs is found and never continued. Ones that begin later are agreed on.

Whose calls: those of a process belong to the connection that it has accepted last, and its children inherit that.
So servers are carried that have a process for each connection (smbd, vsftpd, sshd, Apache prefork), or serve one at
a time. Servers that mix connections in one process, or whose threads race, do not become equal.

The program gets PID, mount, IPC and time namespaces of its own and no random addresses; it is traced, and ends with
this supervisor. It takes root; the program may change its user. Programs in C and Go, static and dynamic, for x86-64 are
carried; of 32 bits are refused; io_uring does not exist for them. A wrapped program cannot be traced by others.

Signals, standard input and output and the exit status pass through. If the first process exits with 0 and others go on,
wrap waits for them, and SIGTERM or SIGINT ends them; if it ends otherwise, they are ended. A process that cannot be
followed is ended, and the others go on.

Without --authority the results are this server's own.

Exit status: the program's, 128 + N if signal N ended it; 126, 127 it could not be run; 1 it could not be followed, 2 usage.`,
		Example: `  head -c 32 /dev/urandom > secret; chmod 600 secret
  lockstep wrap --decide /run/lockstep-wrap.sock --servers 2 &
  lockstep wrap --authority /run/lockstep-wrap.sock --server s1 --secret secret -- smbd -F --no-process-group -s one.conf
  lockstep wrap --authority /run/lockstep-wrap.sock --server s2 --secret secret -- smbd -F --no-process-group -s two.conf

  lockstep keys --pair edge --members d --servers s1,s2 --out keys    # each directory to its own host
  lockstep wrap --decide 10.20.0.2:7480 --identity keys/d
  lockstep wrap --authority 10.20.0.2:7480 --identity keys/s1 -- smbd -F --no-process-group

  lockstep keys --pair edge --members a,b --servers s1,s2 --out keys   # a's and b's: authority.identity
  lockstep wrap --authority 10.20.0.2:7480,10.20.0.3:7480 --timeout 1s --identity keys/s1 -- smbd -F --no-process-group`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.decide != "" {
				return o.serve(args, cmd.ErrOrStderr())
			}
			return o.run(cmd, args)
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // the command's flags are its own
	f.StringVar(&o.authority, "authority", "", "the `socket`, or address and port, of who decides (of several, separated by commas, one at a time does); without it results are this server's own")
	f.StringVar(&o.identity, "identity", "", "with an address: this node's `directory` of keys; it has a server's name and the secret, too")
	f.StringVar(&o.server, "server", "", "this server's `name`, of those that ask the same authority")
	f.StringVar(&o.secret, "secret", "", "the `file` of 32 bytes that the servers share, from which randomness is derived")
	f.DurationVar(&o.timeout, "timeout", 200*time.Millisecond, "after which an authority is gone, and results are this server's own")
	f.StringVar(&o.decide, "decide", "", "run no command, but decide at this `socket`, or address and port")
	f.IntVar(&o.servers, "servers", 2, "of --decide: how `many` servers ask")
	return []*cobra.Command{cmd}
}

type wrapOptions struct {
	authority, server, secret, decide, identity string
	timeout                                     time.Duration
	servers                                     int
}

func (o *wrapOptions) serve(args []string, errs io.Writer) error {
	if len(args) > 0 || o.authority != "" || o.servers < 1 {
		return &exitError{exitUsage, errors.New("--decide takes no command and no --authority, and at least one of --servers")}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	at, err := o.place(o.decide)
	if err != nil {
		return err
	}
	return agree.Serve(ctx, at, agree.Process(o.servers), errs, nil)
}

// place is a socket's path, or an address and port.
func (o *wrapOptions) place(name string) (agree.Place, error) {
	addresses := strings.Split(name, ",")
	isSocket := strings.Contains(name, "/")
	for _, a := range addresses {
		_, _, err := net.SplitHostPort(a)
		isSocket = isSocket || err != nil
	}
	if isSocket {
		if o.identity != "" {
			return agree.Place{}, &exitError{exitUsage, fmt.Errorf("%s is a socket of this machine: --identity is for ADDRESS:PORT", name)}
		}
		return agree.Place{Socket: name}, nil
	}
	if o.identity == "" {
		return agree.Place{}, &exitError{exitUsage, fmt.Errorf("%s takes --identity DIRECTORY, as `lockstep keys --servers` makes it", name)}
	}
	id, err := identity.Load(o.identity)
	if err != nil {
		return agree.Place{}, &exitError{exitUsage, err}
	}
	return agree.Place{Addresses: addresses, Identity: id}, nil
}

func (o *wrapOptions) run(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return &exitError{exitUsage, errors.New("no command: lockstep wrap -- COMMAND [ARGS...]")}
	}
	options := wrap.Options{Command: args, Messages: cmd.ErrOrStderr(), Secret: make([]byte, determinant.SecretSize)}
	_, _ = rand.Read(options.Secret) // it never fails (crypto/rand)
	if o.authority == "" {
		options.Authority = wrap.Alone()
	} else {
		at, err := o.place(o.authority)
		if err != nil {
			return err
		}
		if at.Socket == "" {
			o.server, o.secret = at.Identity.Node, cmp.Or(o.secret, filepath.Join(o.identity, secretFile))
		}
		if o.server == "" || o.secret == "" {
			return &exitError{exitUsage, errors.New("--authority takes --server NAME and --secret FILE, or an address and --identity DIRECTORY")}
		}
		if options.Secret, err = readSecret(o.secret); err != nil {
			return &exitError{exitUsage, err}
		}
		client, err := agree.Dial(at, o.server, o.timeout)
		if err != nil {
			return err
		}
		defer client.Close()
		options.Authority = client
	}
	status, err := wrap.Run(options)
	var cannot *wrap.CommandError
	switch {
	case errors.As(err, &cannot):
		return &exitError{cannot.Status, err}
	case err != nil:
		return err
	case status.Signaled():
		return &exitError{status: 128 + int(status.Signal())}
	case status.ExitStatus() != 0:
		return &exitError{status: status.ExitStatus()}
	}
	return nil
}

// readSecret reads the servers' secret, and refuses one that others may read.
func readSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the servers' secret: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading the servers' secret: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("others than its owner may read %s: chmod 600 %s", path, path)
	}
	secret := make([]byte, determinant.SecretSize+1)
	n, _ := f.Read(secret) // a shorter one is told by its length
	if n != determinant.SecretSize {
		return nil, fmt.Errorf("%s has to have exactly %d random bytes: head -c %d /dev/urandom > %s", path, determinant.SecretSize, determinant.SecretSize, path)
	}
	return secret[:n], nil
}
