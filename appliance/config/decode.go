package config

import (
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

// section is a cursor over one mapping of the file. Each getter takes a key,
// records it as known, and leaves the destination (which holds the default)
// alone when the key is absent; a wrong type becomes a FieldError. done
// reports the keys nobody asked for.
type section struct {
	d       *decoder
	path    string // as error messages write it
	envPath string // as the environment names it; services go by name, not index
	m       map[string]any
	known   []string
}

// decoder holds what all sections of one file share.
type decoder struct {
	errs Errors
	// override returns the environment's value for a key's path, if set.
	override func(envPath string) (string, bool)
}

func (d *decoder) root(m map[string]any) *section { return &section{d: d, m: m} }

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// child returns the cursor for a nested mapping; an absent or empty one has no keys.
func (s *section) child(key string) *section {
	s.known = append(s.known, key)
	c := &section{d: s.d, path: join(s.path, key), envPath: join(s.envPath, key)}
	switch v := s.m[key].(type) {
	case nil:
	case map[string]any:
		c.m = v
	default:
		s.d.errs.add(c.path, "write its keys indented below it", "is %s, want a mapping", kindOf(v))
	}
	return c
}

// value returns the key's raw value: the environment's if set, else the
// file's. ok is false when the default stands.
func (s *section) value(key string) (v any, fromEnv, ok bool) {
	s.known = append(s.known, key)
	if o, set := s.d.override(join(s.envPath, key)); set {
		return o, true, true
	}
	v, ok = s.m[key]
	if ok && v == nil {
		s.d.errs.add(join(s.path, key), "remove the key to get its default", "has no value")
		return nil, false, false
	}
	return v, false, ok
}

func (s *section) fail(key, hint, format string, args ...any) {
	s.d.errs.add(join(s.path, key), hint, format, args...)
}

// text reads a string.
func (s *section) text(key string, dst *string) bool {
	v, _, ok := s.value(key)
	if !ok {
		return false
	}
	t, isText := v.(string)
	if !isText {
		s.fail(key, "put it in quotes", "is %s, want text", kindOf(v))
		return false
	}
	*dst = t
	return true
}

// count reads a whole number.
func (s *section) count(key string, dst *int) {
	v, fromEnv, ok := s.value(key)
	if !ok {
		return
	}
	switch n := v.(type) {
	case int:
		*dst = n
		return
	case string:
		if i, err := strconv.Atoi(n); fromEnv && err == nil {
			*dst = i
			return
		}
	}
	s.fail(key, "write a whole number such as 1000", "is %s, want a whole number", describe(v))
}

// flag reads true or false.
func (s *section) flag(key string, dst *bool) {
	v, fromEnv, ok := s.value(key)
	if !ok {
		return
	}
	switch b := v.(type) {
	case bool:
		*dst = b
		return
	case string:
		if parsed, err := strconv.ParseBool(b); fromEnv && err == nil {
			*dst = parsed
			return
		}
	}
	s.fail(key, "write true or false", "is %s, want true or false", describe(v))
}

// duration reads a Go duration; a bare number is refused because its unit
// would be a guess, except 0, which needs none.
func (s *section) duration(key string, dst *time.Duration) {
	v, _, ok := s.value(key)
	if !ok {
		return
	}
	switch t := v.(type) {
	case string:
		if parsed, err := time.ParseDuration(t); err == nil {
			*dst = parsed
			return
		}
	case int:
		if t == 0 {
			*dst = 0
			return
		}
	}
	s.fail(key, "write a number with a unit, such as 20ms, 1s, 2h", "is %s, want a duration", describe(v))
}

// size reads a number of bytes with a binary unit.
func (s *section) size(key string, dst *Size) {
	v, _, ok := s.value(key)
	if !ok {
		return
	}
	switch t := v.(type) {
	case string:
		if parsed, err := ParseSize(t); err == nil {
			*dst = parsed
			return
		}
	case int:
		if t >= 0 {
			*dst = Size(t)
			return
		}
	}
	s.fail(key, "write a whole number with KiB, MiB or GiB, such as 16MiB", "is %s, want a size", describe(v))
}

// choice reads one of a few words.
func choice[T ~string](s *section, key string, dst *T, values ...T) {
	var t string
	if !s.text(key, &t) {
		return
	}
	if !slices.Contains(values, T(t)) {
		words := make([]string, len(values))
		for i, v := range values {
			words[i] = string(v)
		}
		s.fail(key, "one of: "+strings.Join(words, ", "), "is %q", clip(t))
		return
	}
	*dst = T(t)
}

// texts reads a list of strings; the environment gives it separated by commas.
func (s *section) texts(key string, dst *[]string) bool {
	v, fromEnv, ok := s.value(key)
	if !ok {
		return false
	}
	if fromEnv {
		*dst = nil
		for part := range strings.SplitSeq(v.(string), ",") {
			if part = strings.TrimSpace(part); part != "" {
				*dst = append(*dst, part)
			}
		}
		return true
	}
	list, isList := v.([]any)
	if !isList {
		s.fail(key, "write it in brackets, such as [x, y]", "is %s, want a list", kindOf(v))
		return false
	}
	out := make([]string, 0, min(len(list), 64))
	for i, e := range list {
		t, isText := e.(string)
		if !isText {
			s.fail(fmt.Sprintf("%s[%d]", key, i), "put it in quotes", "is %s, want text", kindOf(e))
			continue
		}
		out = append(out, t)
	}
	*dst = out
	return true
}

// done reports the keys of this mapping that no getter asked for.
func (s *section) done() {
	var unknown []string
	for key := range s.m {
		if !slices.Contains(s.known, key) {
			unknown = append(unknown, key)
		}
	}
	sort.Strings(unknown) // map order would make messages differ from run to run
	for _, key := range unknown {
		s.d.errs.add(join(s.path, clip(key)), suggest(key, s.known), "unknown key")
	}
}

// suggest is the hint for a word that is not in known: the nearest one, or all.
func suggest(word string, known []string) string {
	best, distance := "", 3
	for _, k := range known {
		if d := editDistance(strings.ToLower(word), k, distance); d < distance {
			best, distance = k, d
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	sorted := slices.Clone(known)
	sort.Strings(sorted)
	return "known here: " + strings.Join(slices.Compact(sorted), ", ")
}

// editDistance counts insertions, deletions and replacements from a to b;
// anything at or above limit is reported as limit.
func editDistance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			above := row[j]
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			row[j] = min(cost, above+1, row[j-1]+1)
			diagonal = above
		}
	}
	return min(row[len(b)], limit)
}

func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "empty"
	case string:
		return "text"
	case bool:
		return "true/false"
	case int, int64, uint64:
		return "a number"
	case float64:
		return "a fraction"
	case []any:
		return "a list"
	case map[string]any, map[any]any:
		return "a mapping"
	case time.Time:
		return "a date"
	default:
		return "of another type"
	}
}

// describe shows a scalar's value and only the kind of anything larger.
func describe(v any) string {
	switch t := v.(type) {
	case string:
		return strconv.Quote(clip(t))
	case int, bool, float64:
		return fmt.Sprint(t)
	}
	return kindOf(v)
}

// clip keeps a hostile value from filling the message.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "..."
	}
	return s
}
