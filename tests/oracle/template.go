// The oracle of tests/gotemplate/test_template_oracle.py: what Go's own text/template makes of a template
// with the functions that the docker CLI adds (cli/templates/templates.go).
//
// A line of standard input is {"template", "data", "strict"}, or {"table"}, a text to align as docker
// aligns tables; each is answered by a line {"output", "error"}.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"text/template"
)

type question struct {
	Template string
	Data     any
	Strict   bool
	Table    string
}

type answer struct {
	Output []byte `json:"output"` // base64: it need not be UTF-8
	Error  string `json:"error"`
}

func formatJSON(v any) string {
	buffer := &bytes.Buffer{}
	encoder := json.NewEncoder(buffer)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(v)
	return strings.TrimSpace(buffer.String())
}

func join(elements any, separator string) (string, error) {
	switch all := elements.(type) {
	case nil:
		return "", nil
	case []string:
		return strings.Join(all, separator), nil
	case []any:
		texts := make([]string, len(all))
		for i, one := range all {
			texts[i] = fmt.Sprint(one)
		}
		return strings.Join(texts, separator), nil
	}
	return "", fmt.Errorf("expected []string; got %T", elements)
}

func pad(source string, prefix, suffix int) string {
	if source == "" {
		return source
	}
	return strings.Repeat(" ", prefix) + source + strings.Repeat(" ", suffix)
}

func truncate(source string, length int) string {
	if len(source) < length {
		return source
	}
	return source[:length]
}

var functions = template.FuncMap{
	"json":     formatJSON,
	"split":    strings.Split,
	"join":     join,
	"title":    strings.Title,
	"lower":    strings.ToLower,
	"upper":    strings.ToUpper,
	"pad":      pad,
	"truncate": truncate,
}

// plain makes int or float64 of numbers, as values in Go have them.
func plain(value any) any {
	switch value := value.(type) {
	case json.Number:
		if number, err := value.Int64(); err == nil {
			return int(number)
		}
		number, _ := value.Float64()
		return number
	case []any:
		for i := range value {
			value[i] = plain(value[i])
		}
	case map[string]any:
		for key := range value {
			value[key] = plain(value[key])
		}
	}
	return value
}

func align(text string) answer {
	output := &bytes.Buffer{}
	writer := tabwriter.NewWriter(output, 10, 1, 3, ' ', 0) // as formatter.Context.postFormat
	_, _ = writer.Write([]byte(text))
	_ = writer.Flush()
	return answer{Output: output.Bytes()}
}

func carryOut(asked question) answer {
	if asked.Table != "" {
		return align(asked.Table)
	}
	parsed := template.New("").Funcs(functions)
	if asked.Strict {
		parsed = parsed.Option("missingkey=error")
	}
	parsed, err := parsed.Parse(asked.Template)
	if err != nil {
		return answer{Error: err.Error()}
	}
	output := &bytes.Buffer{}
	if err := parsed.Execute(output, plain(asked.Data)); err != nil {
		return answer{Error: err.Error()}
	}
	return answer{Output: output.Bytes()}
}

func main() {
	lines := bufio.NewReaderSize(os.Stdin, 1<<20)
	answers := json.NewEncoder(os.Stdout)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		var asked question
		decoder := json.NewDecoder(bytes.NewReader(line))
		decoder.UseNumber()
		if err := decoder.Decode(&asked); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if err := answers.Encode(carryOut(asked)); err != nil {
			os.Exit(1)
		}
	}
}
