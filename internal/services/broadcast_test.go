package services

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lockstep/internal/lab/labtest"
)

// What ffmpeg broadcasts is made of packets: a frame of a film, or some milliseconds of sound, each
// with its time. The source keeps a copy of all it has sent, so that a recording can be compared with
// it packet by packet. Bytes would not do: Icecast cuts Ogg into pages of its own.

// program is what a source sends.
type program struct {
	mount  string // on Icecast
	format string // of ffmpeg
	kind   string // Content-Type
	input  []string
	encode []string
	mux    []string
	// step is the longest time between two packets of a stream. More is a gap.
	step time.Duration
	more int64 // bytes that are some seconds of it
}

var (
	film = program{
		mount: "film.webm", format: "webm", kind: "video/webm",
		input: []string{"-re", "-f", "lavfi", "-i", "testsrc=size=160x120:rate=25",
			"-re", "-f", "lavfi", "-i", "sine=frequency=440:beep_factor=4:sample_rate=48000"},
		// A key frame at least twice a second. WebM begins a cluster with each, and Icecast's listeners
		// begin with a cluster.
		encode: []string{"-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-threads", "1", "-b:v", "400k",
			"-g", "12", "-c:a", "libvorbis"},
		step: 45 * time.Millisecond, // 25 pictures a second
		more: 32 * kib,
	}
	music = program{
		mount: "music.ogg", format: "ogg", kind: "application/ogg",
		// A steady tone: where the size of Vorbis' blocks changes ffmpeg takes a packet's time from where
		// the pages are cut.
		input:  []string{"-re", "-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000"},
		encode: []string{"-c:a", "libvorbis", "-q:a", "6"},
		mux:    []string{"-page_duration", "100000"},
		step:   35 * time.Millisecond, // 1024 samples; the first one is longer
		more:   6 * kib,
	}
)

// broadcast writes the program into a file and, if there is one, to a server as well.
func (p program) broadcast(file, server string) []string {
	args := append([]string{"-nostdin", "-v", "warning"}, p.input...)
	args = append(append(append(args, p.encode...), p.mux...), "-f", p.format)
	if server == "" {
		return append(args, file)
	}
	return append(args, "-protocol_whitelist", "tee,icecast,http,tcp,file", fmt.Sprintf("tee:[content_type=%s]%s|%s", p.kind, server, file))
}

// tape is what a source has sent, or a listener heard.
type tape struct {
	*client
	program
	path string
	sent string // the path of what was sent
}

// growing is the progress of a program that writes a file: it has come to a size.
type growing struct {
	path string
	more int64
	size int64
}

func (g *growing) there() bool { return sizeOf(g.path) >= g.size }

// mark sets the size to some seconds on from where it is.
func (g *growing) mark() { g.size = sizeOf(g.path) + g.more }

// tape begins one, which a program writes.
func (l *load) tape(name, sent string, p program, run func(path string) *client) tape {
	l.t.Helper()
	c := tape{program: p, sent: sent, path: filepath.Join(l.dir("air"), strings.ReplaceAll(name, " ", "-")+"-"+p.mount)}
	c.client = run(c.path)
	c.stop = &growing{path: c.path, more: p.more, size: p.more}
	return c
}

// broadcast sends a program as a source client does.
func (l *load) broadcast(name string, s service, p program) tape {
	l.t.Helper()
	return l.tape(name, "", p, func(path string) *client {
		server := strings.Replace(radio(s.port, p.mount), "http://", "icecast://source:secret@", 1)
		return l.run(name, nil, nil, "ffmpeg", p.broadcast(path, server)...)
	})
}

// record listens with curl, which keeps the bytes as they come.
func (l *load) record(name string, s service, sent tape) tape {
	l.t.Helper()
	return l.tape(name, sent.path, sent.program, func(path string) *client {
		return l.run(name, nil, nil, "curl", "-sS", "--fail", "-N", "-o", path, radio(s.port, sent.mount))
	})
}

// play listens with ffmpeg, which takes the stream apart and keeps its packets.
func (l *load) play(name string, s service, sent tape) tape {
	l.t.Helper()
	return l.tape(name, sent.path, sent.program, func(path string) *client {
		args := []string{"-nostdin", "-v", "warning", "-copyts", "-i", radio(s.port, sent.mount), "-c", "copy", "-avoid_negative_ts", "disabled", "-flush_packets", "1"}
		return l.run(name, nil, nil, "ffmpeg", append(append(args, sent.mux...), "-f", sent.format, path)...)
	})
}

// end tells a source that it is enough: it writes the stream's end and says goodbye.
func (c tape) end(l *load) {
	l.t.Helper()
	if err := c.proc.Signal(os.Interrupt); err != nil {
		l.t.Fatal(err)
	}
	_ = l.wait(c.client) // ffmpeg's exit code says that it was a signal
}

// goOn waits until every tape has some seconds more, while nobody of the loads, which
// have tapes only, ends.
func (b *bed) goOn(loads ...*load) {
	b.t.Helper()
	for _, l := range loads {
		for _, c := range l.clients {
			c.stop.(*growing).mark()
		}
	}
	for _, l := range loads {
		l.underWay()
	}
}

// packet is one of a media stream's.
type packet struct {
	Stream int    `json:"stream_index"`
	PTS    int64  `json:"pts"`
	Time   string `json:"pts_time"`
	Hash   string `json:"data_hash"`
}

func (p packet) time() (time.Duration, error) {
	t, err := time.ParseDuration(p.Time + "s")
	if err != nil {
		return 0, fmt.Errorf("time of a packet: %w", err)
	}
	return t, nil
}

// packets of a file, by stream.
func packets(path string) (map[int][]packet, error) {
	out, err := tool("ffprobe", "-v", "error", "-show_packets", "-show_data_hash", "sha256",
		"-show_entries", "packet=stream_index,pts,pts_time,data_hash", "-of", "json", path)
	if err != nil {
		return nil, err
	}
	var all struct{ Packets []packet }
	if err := json.Unmarshal(out, &all); err != nil {
		return nil, fmt.Errorf("packets of %s: %w", path, err)
	}
	streams := map[int][]packet{}
	for _, p := range all.Packets {
		streams[p.Stream] = append(streams[p.Stream], p)
	}
	return streams, nil
}

// tool runs one of ffmpeg's programs on files.
func tool(name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		said := ""
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			said = string(exit.Stderr)
		}
		return nil, fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, said)
	}
	return out, nil
}

// heard is what of a broadcast a recording has: one piece, by the time since the broadcast's begin.
type heard struct{ from, to time.Duration }

// compare checks that the recording is one piece of what was sent, without a gap, and that it can be
// played.
func (p program) compare(recording, sent string) (heard, error) {
	rec, err := packets(recording)
	if err != nil {
		return heard{}, err
	}
	src, err := packets(sent)
	if err != nil {
		return heard{}, err
	}
	if len(rec) != len(src) || len(rec) == 0 {
		return heard{}, fmt.Errorf("%s has %d streams of %d", recording, len(rec), len(src))
	}
	h := heard{from: math.MaxInt64, to: math.MinInt64}
	for stream, got := range rec {
		part, err := p.piece(got, src[stream])
		if err != nil {
			return heard{}, fmt.Errorf("%s, stream %d: %w", recording, stream, err)
		}
		h.from, h.to = min(h.from, part.from), max(h.to, part.to)
	}
	// Any error that a decoder sees ends ffmpeg.
	_, err = tool("ffmpeg", "-nostdin", "-v", "error", "-xerror", "-err_detect", "explode", "-i", recording, "-f", "null", "-")
	return h, err
}

// piece checks that what came of a stream is one piece of what was sent, without a gap.
func (p program) piece(got, sent []packet) (h heard, err error) {
	at := slices.Index(sent, got[0])
	if at < 0 {
		return h, fmt.Errorf("it begins with %+v, which was not sent", got[0])
	}
	for i, x := range got {
		t, err := x.time()
		switch {
		case err != nil:
			return h, err
		case at+i == len(sent):
			return h, fmt.Errorf("after all that was sent comes %+v", x)
		case x != sent[at+i]:
			return h, fmt.Errorf("after %d packets comes %+v, not %+v", i, x, sent[at+i])
		case i == 0:
			h.from = t
		case t-h.to > p.step:
			return h, fmt.Errorf("nothing from %v to %v", h.to, t)
		}
		h.to = t
	}
	return h, nil
}

// until is how far a tape has come.
func (b *bed) until(c tape) (last time.Duration) {
	b.t.Helper()
	streams, err := packets(c.path)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, s := range streams {
		t, err := s[len(s)-1].time()
		if err != nil {
			b.t.Fatal(err)
		}
		last = max(last, t)
	}
	return last
}

// check compares a tape with what was sent.
func (b *bed) check(c tape) heard {
	b.t.Helper()
	h, err := c.compare(c.path, c.sent)
	if err != nil {
		b.t.Errorf("%s: %v", c.name, err)
	}
	b.t.Logf("%s has heard %s from %v to %v", c.name, c.mount, h.from, h.to)
	return h
}

// The check of a recording has to see what it is there for.
func TestRecordingCheck(t *testing.T) {
	labtest.RequirePrograms(t, "ffmpeg:ffmpeg", "ffprobe:ffmpeg")
	for _, p := range []program{film, music} {
		sent, cut := filepath.Join(t.TempDir(), "sent-"+p.mount), filepath.Join(t.TempDir(), "cut-"+p.mount)
		p.input = slices.DeleteFunc(slices.Clone(p.input), func(arg string) bool { return arg == "-re" })
		p.encode = append(slices.Clone(p.encode), "-t", "2")
		if _, err := tool("ffmpeg", p.broadcast(sent, "")...); err != nil {
			t.Fatal(err)
		}
		if h, err := p.compare(sent, sent); err != nil || h.from > 100*time.Millisecond || h.to < 1900*time.Millisecond {
			t.Errorf("%s: the whole is %+v, %v", p.mount, h, err)
		}
		b, err := os.ReadFile(sent)
		if err != nil {
			t.Fatal(err)
		}
		// A piece as small as can be: one byte, and what is between two heads (of Ogg's pages, of
		// WebM's blocks of sound).
		mid := len(b) / 2
		head := []byte("OggS")
		if p.format == "webm" {
			head = []byte{0xa3}
		}
		one := mid + bytes.Index(b[mid:], head)
		two := one + 1 + bytes.Index(b[one+1:], head)
		for what, damaged := range map[string][]byte{
			"without a byte":     slices.Delete(slices.Clone(b), mid, mid+1),
			"without a piece":    slices.Delete(slices.Clone(b), one, two),
			"with a piece twice": slices.Insert(slices.Clone(b), two, b[one:two]...),
			"with a wrong byte":  slices.Replace(slices.Clone(b), mid, mid+1, ^b[mid]),
		} {
			if err := os.WriteFile(cut, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			if h, err := p.compare(cut, sent); err == nil {
				t.Errorf("%s %s is taken for a recording of %+v", p.mount, what, h)
			} else {
				t.Logf("%s %s: %v", p.mount, what, err)
			}
		}
	}
}
