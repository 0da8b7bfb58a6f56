// Package metrics owns the Prometheus endpoint: the names and meanings of the
// lockstep_* metrics and the HTTP server that shows them.
//
// It must not know how the appliance works: at each scrape it asks for one
// control.Status and turns it into samples, so metrics and `lockstep status`
// can never disagree. Nothing is counted here, and nothing on the packet path
// waits for it.
package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"

	"lockstep/appliance/control"
)

const (
	maxScrapes    = 4 // connections at a time
	scrapeTimeout = 10 * time.Second
)

// Server answers scrapes.
type Server struct {
	listen net.Listener
	http   *http.Server
	done   chan struct{} // closed when Serve has returned
}

// Serve begins to answer GET /metrics on addr with an appliance's metrics.
func Serve(addr netip.AddrPort, p control.Provider, log *slog.Logger) (*Server, error) {
	return ServeCollector(addr, newCollector(p), log)
}

// ServeCollector is Serve with somebody else's metrics.
func ServeCollector(addr netip.AddrPort, c prometheus.Collector, log *slog.Logger) (*Server, error) {
	registry := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{
		c, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	l, err := net.Listen("tcp", addr.String())
	if err != nil {
		return nil, fmt.Errorf("listen for metrics: %w (change `metrics`, or leave it empty)", err)
	}
	mux := http.NewServeMux()
	errorLog := slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	scrape := promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorLog: errorLog, Timeout: scrapeTimeout})
	mux.Handle("GET /metrics", hostChecked(scrape))
	s := &Server{
		listen: l, done: make(chan struct{}),
		http: &http.Server{
			Handler: mux, ErrorLog: errorLog, MaxHeaderBytes: 16 << 10,
			ReadTimeout: scrapeTimeout, WriteTimeout: 2 * scrapeTimeout, IdleTimeout: time.Minute,
		},
	}
	go func() {
		defer close(s.done)
		if err := s.http.Serve(netutil.LimitListener(l, maxScrapes)); !errors.Is(err, http.ErrServerClosed) {
			log.Error("metrics stopped answering", "error", err.Error())
		}
	}()
	return s, nil
}

// hostChecked refuses requests that were addressed by a name that is not this machine's:
// a web page whose name is made to point here (DNS rebinding) would let a browser of the
// network read the metrics for it.
func hostChecked(next http.Handler) http.Handler {
	own, _ := os.Hostname() // empty: no name is ours
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !ownHost(r.Host, own) {
			http.Error(w, "ask by the address that `metrics` is set to, by localhost or by this machine's own name", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// ownHost: an address in place of a name cannot be made to point elsewhere.
func ownHost(host, own string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	return name == "localhost" || own != "" && name == strings.ToLower(own)
}

// addr is the address that the server listens on.
func (s *Server) addr() net.Addr { return s.listen.Addr() }

// Close stops answering and returns when the server's goroutines have ended.
func (s *Server) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if s.http.Shutdown(ctx) != nil {
		s.http.Close() // a scraper that does not read must not hold up shutdown
	}
	<-s.done
}
