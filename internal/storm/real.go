package storm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"lockstep/internal/lab"
	"lockstep/internal/realservers"
)

// The real service beside the checked load: nginx on the second server, from which curl downloads.
const (
	webPort    = 82
	serverPort = 80
	curlLimit  = 2 * time.Minute
)

// web is the real service.
type web struct {
	storm *storm
	dir   string
	files []realservers.File
}

// findReal says whether nginx and curl are here.
func findReal() bool { return lab.CheckPrograms("nginx:nginx", "curl:curl") == nil }

func newWeb(ctx context.Context, s *storm, dir string) (*web, error) {
	w := &web{storm: s, dir: dir}
	www := filepath.Join(dir, "www")
	if err := os.MkdirAll(www, 0o755); err != nil {
		return nil, fmt.Errorf("real server: %w", err)
	}
	for _, f := range []realservers.File{{Name: "small", Size: 20_000}, {Name: "middle", Size: 2 << 20}, {Name: "large", Size: 16 << 20}} {
		if err := f.Create(www); err != nil {
			return nil, fmt.Errorf("real server: make its files: %w", err)
		}
		w.files = append(w.files, f)
	}
	// Its workers stay root: they are alone in their namespaces, and root may be the only user there.
	server, err := realservers.Nginx(www, dir, "root root")
	if err == nil {
		_, err = server.Start(ctx, s.pair.Servers[1], "")
	}
	if err != nil {
		return nil, fmt.Errorf("real server: %w", err)
	}
	return w, nil
}

// run downloads one file after the other until finish is closed or ctx ends.
func (w *web) run(ctx context.Context, finish <-chan struct{}) {
	rng := rand.New(rand.NewPCG(w.storm.opts.seed, 50))
	for {
		select {
		case <-finish:
			return
		case <-ctx.Done():
			return
		case <-time.After(pauseBetween):
		}
		w.one(ctx, pick(rng, w.files...), rng.IntN(2) == 0)
	}
}

// one download, as fast as possible or so that it takes some seconds.
func (w *web) one(ctx context.Context, f realservers.File, slow bool) {
	out := filepath.Join(w.dir, "got")
	args := []string{"-q", "-sS", "--fail", "--http1.1", "--no-buffer", "-o", out, fmt.Sprintf("http://%s:%d/%s", lab.VIP4, webPort, f.Name)}
	if slow {
		args = append(args, "--limit-rate", "2M")
	}
	l := w.storm.load
	began, before := time.Now(), l.starts()
	err := w.fetch(ctx, args)
	if ctx.Err() != nil {
		return
	}
	l.mu.Lock()
	l.count.Real++
	l.mu.Unlock()
	wrong := error(nil)
	if err == nil {
		wrong = f.Check(out, 0, f.Size)
	}
	name := fmt.Sprintf("curl of %s, %s", began.Format("15:04:05.000"), f.Name)
	switch {
	case wrong != nil:
		l.note(&l.count.Wrong)
		w.storm.find(finding{Kind: findWrong, Detail: name + ": " + clip(wrong.Error())})
	case err == nil:
	case l.starts() != before:
		l.note(&l.count.WrittenOff)
	case w.storm.stated(webPort) != "":
		l.note(&l.count.Stated)
	default:
		l.note(&l.count.Lost)
		w.storm.find(finding{Kind: findLost, Detail: name + ": " + clip(err.Error())})
	}
}

func (w *web) fetch(ctx context.Context, args []string) error {
	p, err := w.storm.pair.Client.Start(lab.Command{Name: "curl", Path: "curl", Args: args})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, curlLimit)
	defer cancel()
	err = p.Wait(ctx)
	if p.Running() {
		_ = p.Kill()
		<-p.Done()
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("%w: %s", err, p.Tail(2))
	}
	return err
}
