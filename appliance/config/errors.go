package config

import (
	"errors"
	"fmt"
	"strings"
)

// errNoFile says that there is no configuration file, as opposed to a wrong
// one (Errors): the first needs a path or a file, the second an editor.
var errNoFile = errors.New("config: no configuration file")

// FieldError is one fault in a configuration.
type FieldError struct {
	Path string // the key as the file nests it, such as services[0].listen[1]; empty: the whole file
	Msg  string // what is wrong, with the offending value
	Hint string // what to write instead; may be empty
}

// Error implements error: path, fault and hint on one line.
func (e FieldError) Error() string {
	var b strings.Builder
	if e.Path != "" {
		b.WriteString(e.Path)
		b.WriteString(": ")
	}
	b.WriteString(e.Msg)
	if e.Hint != "" {
		b.WriteString(" (")
		b.WriteString(e.Hint)
		b.WriteString(")")
	}
	return b.String()
}

// Errors are all faults of a configuration at once, in the order of the file's
// sections. A nil Errors is no fault; use errOrNil to make it an error.
type Errors []FieldError

// Error implements error: one line per fault.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, f := range e {
		lines[i] = f.Error()
	}
	return strings.Join(lines, "\n")
}

// maxErrors bounds the list: a file that is not a configuration at all should
// not bury its first fault.
const maxErrors = 100

func (e *Errors) add(path, hint, format string, args ...any) {
	if len(*e) < maxErrors {
		*e = append(*e, FieldError{Path: path, Msg: fmt.Sprintf(format, args...), Hint: hint})
	}
}

func (e Errors) errOrNil() error {
	if len(e) == 0 {
		return nil
	}
	return e
}
