package eval

import (
	"bufio"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// Sample is one measured value.
type Sample struct {
	Series string  `json:"series"`         // the line, or the group, that it is of
	Part   string  `json:"part,omitempty"` // of what is made of several: which
	Run    int     `json:"run"`
	X      float64 `json:"x"` // units are the experiment's
	Y      float64 `json:"y"`
}

// record is what one run has left: a line of an experiment's file.
type record struct {
	Run     string   `json:"run"`     // its name
	Setting string   `json:"setting"` // of the whole evaluation; another one's runs do not count
	Seconds float64  `json:"seconds"` // it took so long
	Error   string   `json:"error,omitempty"`
	Samples []Sample `json:"samples,omitempty"`
}

// maxRecord bounds a line that is read, bytes. A run has some thousand samples of about a hundred bytes.
const maxRecord = 16 << 20

// samplesDir is below the directory of the report.
const samplesDir = "samples"

// load reads what an evaluation has left that was stopped, or is over. A last line that is not whole is what a run left
// that was killed as it wrote: it does not count.
func load(dir, experiment string) (all []record, err error) {
	f, err := os.Open(filepath.Join(dir, samplesDir, experiment+".jsonl"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read samples: %w", err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Buffer(nil, maxRecord)
	for s.Scan() {
		var r record
		if json.Unmarshal(s.Bytes(), &r) == nil {
			all = append(all, r)
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("read samples of %s: %w", experiment, err)
	}
	return all, nil
}

// save adds a run's samples. A line that a killed run has left without its end is ended first.
func save(dir, experiment string, r record) (err error) {
	path := filepath.Join(dir, samplesDir, experiment+".jsonl")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make the directory for samples: %w", err)
	}
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode samples: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("write samples: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if size, err := f.Seek(0, 2); err == nil && size > 0 {
		var last [1]byte
		if _, err := f.ReadAt(last[:], size-1); err == nil && last[0] != '\n' {
			line = append([]byte{'\n'}, line...)
		}
	}
	if _, err := f.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write samples: %w", err)
	}
	return nil
}

// samplesOf are those of the runs that went well under a setting, each run once.
func samplesOf(records []record, setting string) (all []Sample, done map[string]record) {
	done = make(map[string]record)
	for _, r := range records {
		if _, twice := done[r.Run]; twice || r.Setting != setting || r.Error != "" {
			continue
		}
		done[r.Run] = r
		all = append(all, r.Samples...)
	}
	return all, done
}

// writeCSV writes samples as a table for other programs.
func writeCSV(path string, x, y string, all []Sample) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write a table: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := csv.NewWriter(f)
	rows := [][]string{{"series", "part", "run", x, y}}
	for _, s := range all {
		rows = append(rows, []string{s.Series, s.Part, strconv.Itoa(s.Run), number(s.X), number(s.Y)})
	}
	if err := w.WriteAll(rows); err != nil {
		return fmt.Errorf("write a table: %w", err)
	}
	return nil
}

// number writes a value so that it is read again as it was.
func number(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
