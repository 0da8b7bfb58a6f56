package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"
)

const (
	maxClients     = 16 // at a time; more wait in the kernel's backlog
	requestTimeout = 5 * time.Second
	maxHeader      = 8 << 10
	maxCommand     = 8 << 10 // bytes of one order
)

// Server answers on the control socket.
type Server struct {
	path   string
	listen net.Listener
	http   *http.Server
	done   chan struct{} // closed when Serve has returned
}

// Serve begins to answer on the unix socket at path, which only this user may
// open. A socket that a dead process left there is replaced; one that answers
// is an error, because then an appliance is running.
func Serve(path string, p Provider, log *slog.Logger) (*Server, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("create directory of control socket: %w", err)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		// Linux makes the file with the mode of the unbound socket (unix(7)), so
		// that it is never open to others, not even between bind and chmod.
		var modeErr error
		err := c.Control(func(fd uintptr) { modeErr = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, modeErr)
	}}
	l, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("open control socket %q: %w", path, err)
	}
	s := &Server{
		path: path, listen: netutil.LimitListener(l, maxClients), done: make(chan struct{}),
		http: &http.Server{
			Handler: answers(p), ReadTimeout: requestTimeout, WriteTimeout: requestTimeout, IdleTimeout: time.Minute,
			MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		},
	}
	go func() {
		defer close(s.done)
		if err := s.http.Serve(s.listen); !errors.Is(err, http.ErrServerClosed) {
			log.Error("control socket stopped answering", "path", path, "error", err.Error())
		}
	}()
	return s, nil
}

// answers are what can be asked for, and ordered.
func answers(p Provider) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { reply(w, p.Status()) })
	mux.HandleFunc("POST /v1/switchover", func(w http.ResponseWriter, r *http.Request) {
		if err := p.Switchover(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /v1/reload", func(w http.ResponseWriter, r *http.Request) {
		done, err := p.Reload(r.URL.Query().Get("dry_run") == "true")
		if err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		reply(w, done)
	})
	mux.HandleFunc("GET /v1/connections", func(w http.ResponseWriter, r *http.Request) {
		q, err := parseConnectionQuery(r.URL.Query())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		reply(w, p.FindConnections(q))
	})
	mux.HandleFunc("POST /v1/server", func(w http.ResponseWriter, r *http.Request) {
		var cmd ServerCommand
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxCommand)).Decode(&cmd); err != nil {
			http.Error(w, "read the order: "+err.Error(), http.StatusBadRequest)
			return
		}
		done, err := p.Server(r.Context(), cmd)
		if err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		reply(w, done)
	})
	return mux
}

// Close stops answering, removes the socket and returns when requests in
// progress have ended, after requestTimeout at the latest.
func (s *Server) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	if s.http.Shutdown(ctx) != nil {
		s.http.Close()
	}
	<-s.done
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // the client is gone: nothing to tell it
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at control socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("control path %q is a file, not a socket (move it away, or change `control`)", path)
	}
	conn, err := net.DialTimeout("unix", path, requestTimeout)
	if err == nil {
		conn.Close()
		return fmt.Errorf("control socket %q is in use: an appliance with this configuration is running", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("probe control socket: %w", err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove stale control socket: %w", err)
	}
	return nil
}
