// Package loglimit keeps what others do from filling the log. It stands between a
// logger and where its lines go, so that a line that somebody forgot to limit is
// limited, too: of each kind, that is of each message, so many lines pass in a minute,
// and when the minute is over one line says how many did not.
//
// Lines below the level Info are not limited: who asks for them wants all.
package loglimit

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// period is what the limits are counted in.
	period = time.Minute
	// maxLines of one message in a period. A role cannot change more often in earnest.
	maxLines = 60
	// maxSources of one message in a period, of those that Per tells apart.
	maxSources = 8
	// maxKinds bounds how many messages are told apart, for those that are not
	// constants; the rest is counted as one.
	maxKinds = 256
)

// source is the value of the attribute that Per makes. It prints as nothing.
type source string

func (source) LogValue() slog.Value { return slog.GroupValue() }

// unlimited marks what an operator has asked for.
const unlimited source = ""

// Per is an attribute for a line that somebody outside causes: it passes once per
// source and minute, for a few sources. It does not show in the line.
func Per(who string) slog.Attr {
	if who == "" {
		who = "?" // nobody, but not unlimited
	}
	return slog.Any("", source(who))
}

// Unlimited is an attribute for lines that an operator has asked for. It does not show.
func Unlimited() slog.Attr { return slog.Any("", unlimited) }

// Handler limits what it hands on to another handler.
type Handler struct {
	next slog.Handler
	all  *kinds // shared by those that With makes
}

// kinds counts lines by message.
type kinds struct {
	mu     sync.Mutex // leaf, but for the lines that end a period
	m      map[string]*kind
	closed bool
}

// kind is one message in its present period.
type kind struct {
	next    slog.Handler // of the first line, for the last one
	level   slog.Level
	message string
	lines   int
	sources map[string]bool
	held    int // lines that did not pass
	end     *time.Timer
}

// New makes a handler that hands on to next. Close it to have told what was kept back.
func New(next slog.Handler) *Handler {
	return &Handler{next: next, all: &kinds{m: map[string]*kind{}}}
}

// Enabled implements slog.Handler.
func (h *Handler) Enabled(ctx context.Context, l slog.Level) bool { return h.next.Enabled(ctx, l) }

// WithAttrs implements slog.Handler.
func (h *Handler) WithAttrs(as []slog.Attr) slog.Handler {
	return &Handler{next: h.next.WithAttrs(as), all: h.all}
}

// WithGroup implements slog.Handler.
func (h *Handler) WithGroup(name string) slog.Handler {
	return &Handler{next: h.next.WithGroup(name), all: h.all}
}

// Handle implements slog.Handler.
func (h *Handler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelInfo && !h.all.pass(h.next, &r) {
		return nil
	}
	return h.next.Handle(ctx, r)
}

// pass tells whether a line may be written, and counts it.
func (k *kinds) pass(next slog.Handler, r *slog.Record) bool {
	who, told := sourceOf(r)
	if told && who == unlimited {
		return true
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return true
	}
	message := r.Message
	if k.m[message] == nil && len(k.m) >= maxKinds {
		message = "(others)"
	}
	t := k.m[message]
	if t == nil {
		t = &kind{next: next, level: r.Level, message: message, sources: map[string]bool{}}
		t.end = time.AfterFunc(period, func() { k.expire(t) })
		k.m[message] = t
	}
	if !t.may(string(who), told) {
		t.held++
		return false
	}
	return true
}

func (t *kind) may(who string, told bool) bool {
	if told {
		if t.sources[who] || len(t.sources) >= maxSources {
			return false
		}
		t.sources[who] = true
		return true
	}
	t.lines++
	return t.lines <= maxLines
}

// expire ends the period of one message.
func (k *kinds) expire(t *kind) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.m[t.message] == t { // not closed meanwhile
		delete(k.m, t.message)
		t.tell()
	}
}

// tell says how many lines were kept back. It is written with the lock held, so that
// nothing is written after Close.
func (t *kind) tell() {
	if t.held == 0 {
		return
	}
	r := slog.NewRecord(time.Now(), t.level, "more lines like one before were kept back", 0)
	r.AddAttrs(slog.String("line", t.message), slog.Int("kept_back", t.held), slog.String("within", period.String()))
	_ = t.next.Handle(context.Background(), r) // there is nobody to tell of a log that fails
}

// Close ends all periods. Lines that come later pass unlimited.
func (h *Handler) Close() {
	k := h.all
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	for m, t := range k.m {
		t.end.Stop()
		delete(k.m, m)
		t.tell()
	}
}

func sourceOf(r *slog.Record) (who source, told bool) {
	r.Attrs(func(a slog.Attr) bool {
		if a.Value.Kind() == slog.KindLogValuer {
			who, told = a.Value.Any().(source)
		}
		return !told
	})
	return who, told
}
