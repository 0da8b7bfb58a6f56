package main

import (
	"context"
	"encoding/xml"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"lockstep/internal/lab"
	"lockstep/internal/realservers"
)

// h2spec of the last version that Go's module proxy has.
const (
	h2specPath    = "github.com/summerwind/h2spec/cmd/h2spec"
	h2specVersion = "v2.2.1+incompatible"
	h2Port        = 8080
)

// http2 is h2spec, a conformance suite for HTTP/2, against nginx.
func http2() suite {
	return suite{
		name: "h2spec", says: "h2spec (HTTP/2, RFC 7540 and 7541) against nginx", port: h2Port,
		programs: []string{"nginx:nginx-light"}, prepare: prepareHTTP2, play: playHTTP2,
	}
}

func prepareHTTP2(ctx context.Context, r *runner, dir string) error {
	www := filepath.Join(dir, "www")
	if err := os.MkdirAll(www, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(www, "index.html"), []byte(strings.Repeat("lockstep\n", 1000)), 0o644); err != nil {
		return err
	}
	s, err := realservers.Nginx(www, dir, "root root")
	if err != nil {
		return err
	}
	conf := filepath.Join(dir, "nginx.conf")
	b, err := os.ReadFile(conf)
	if err != nil {
		return err
	}
	text := strings.Replace(string(b), "listen 80;", fmt.Sprintf("listen 80; listen %d http2;", h2Port), 1)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, s.Program, "-v").CombinedOutput(); err == nil {
		_, version, _ := strings.Cut(strings.TrimSpace(string(out)), "nginx/")
		r.version = strings.TrimSuffix(h2specVersion, "+incompatible") + ", nginx " + version
	}
	if _, err := goTool(ctx, r.opts.sources, h2specPath, h2specVersion); err != nil {
		return err
	}
	if _, err := s.Start(ctx, r.server(), filepath.Join(dir, "nginx.log")); err != nil {
		return err
	}
	return listening(ctx, r.server(), h2Port)
}

// junit is what h2spec writes.
type junit struct {
	Suites []struct {
		ID    string `xml:"id,attr"`
		Name  string `xml:"name,attr"`
		Cases []struct {
			Package string    `xml:"package,attr"`
			Class   string    `xml:"classname,attr"`
			Failure *struct{} `xml:"failure"`
			Error   *struct{} `xml:"error"`
			Skipped *struct{} `xml:"skipped"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

func playHTTP2(ctx context.Context, r *runner, host *lab.Host, address, dir string) (results, error) {
	tool, err := goTool(ctx, r.opts.sources, h2specPath, h2specVersion)
	if err != nil {
		return nil, err
	}
	got := results{}
	// Once takes a few seconds: as often as it takes to meet some failovers.
	for round := 1; round <= h2Rounds; round++ {
		report := filepath.Join(dir, fmt.Sprintf("report-%d.xml", round))
		out, err := program(ctx, host, dir, fmt.Sprintf("h2spec-%d", round), lab.Command{Path: tool,
			Args: []string{"-h", address, "-p", fmt.Sprint(h2Port), "-j", report}})
		if err != nil {
			return nil, err
		}
		b, err := os.ReadFile(report)
		if err != nil {
			return nil, fmt.Errorf("h2spec has written no report: %w\n%s", err, tail(out))
		}
		var j junit
		if err := xml.Unmarshal(b, &j); err != nil {
			return nil, fmt.Errorf("read h2spec's report: %w", err)
		}
		for _, s := range j.Suites {
			for _, c := range s.Cases {
				word := passedWord
				switch {
				case c.Failure != nil || c.Error != nil:
					word = "failed"
				case c.Skipped != nil:
					word = "skipped"
				}
				got[fmt.Sprintf("%s %s, round %d", c.Package, c.Class, round)] = word
			}
		}
	}
	if len(got) == 0 {
		return nil, fmt.Errorf("h2spec has run no tests")
	}
	return got, nil
}

const h2Rounds = 2
