package app

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/secretbroker/secretbroker/internal/connectorfile"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// documents returns the text of every Markdown file of the repository, by path.
func documents(t *testing.T) map[string]string {
	t.Helper()
	const root = "../.."
	found := make(map[string]string)
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != root && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "target" || entry.Name() == "node_modules"):
			return fs.SkipDir
		case entry.IsDir() || filepath.Ext(path) != ".md":
			return nil
		}
		data, err := os.ReadFile(path)
		found[strings.TrimPrefix(path, root+"/")] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if found["README.md"] == "" || found["docs/migrate/lenses-secret-provider.md"] == "" {
		t.Fatalf("not all documents were found: %d", len(found))
	}
	return found
}

// delimiter matches the row between the header of a table and its rows.
var delimiter = regexp.MustCompile(`^\|(\s*:?-+:?\s*\|)+$`)

// TestDocsTables: every table has a header, and as many cells in each row. A row that is wrapped
// into several lines is not a table any more.
func TestDocsTables(t *testing.T) {
	for path, text := range documents(t) {
		for _, fault := range tableFaults(text) {
			t.Errorf("%s: %s", path, fault)
		}
	}
}

func TestDocsTablesFaults(t *testing.T) {
	for text, want := range map[string]int{
		"| a | b |\n|---|---|\n| 1 | 2 |":                0,
		"| a | b |\n|---|---|\n| 1 | `x \\| y` |":        0,
		"```\n| a |\n## x | y |\n|---|\n```":             0,
		"    a | | b":                                    0,
		"## Title | a | b |\n|---|---|\n| 1 | 2 |":       1,
		"| a | b |\n|---|---|\n| 1 | 2 | 3 |":            1,
		"| a | b |\n|---|---|\n| 1 | 2\nand | | 3 | 4 |": 2,
	} {
		if got := tableFaults(text); len(got) != want {
			t.Errorf("%q: %q, want %d faults", text, got, want)
		}
	}
}

func tableFaults(text string) []string {
	var faults []string
	cells, fenced, previous := 0, false, ""
	for line := range strings.SplitSeq(text, "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
		}
		row := strings.HasPrefix(line, "|")
		switch {
		case fenced:
		case delimiter.MatchString(line):
			cells = cellsOf(line)
			if !strings.HasPrefix(previous, "|") || cellsOf(previous) != cells {
				faults = append(faults, "a table without a header of "+line+": "+previous)
			}
		case row && cells > 0 && (cellsOf(line) != cells || !strings.HasSuffix(line, "|")):
			faults = append(faults, "a row that is wrapped or has another number of cells: "+line)
		case !row && !strings.HasPrefix(line, "    ") && strings.Contains(line, " | | "):
			faults = append(faults, "a row that does not begin with |: "+line)
		}
		if !row {
			cells = 0
		}
		previous = line
	}
	return faults
}

// cellsOf counts the cells of a row that begins and ends with |. A pipe in a cell is written \|.
func cellsOf(row string) int {
	row = strings.ReplaceAll(row, `\|`, "")
	return strings.Count(row, "|") - 1
}

// TestDocsPlaceholders: every placeholder of the broker in a document is one that the command
// check finds, with a reference that the broker accepts.
func TestDocsPlaceholders(t *testing.T) {
	// Forms for the reader to complete, and examples of faults.
	form := regexp.MustCompile(`\$\{secretbroker:(<[^}]*|[a-zA-Z]*:(reference|REFERENCE)|\.\.\.|https://\.\.\.)\}`)
	accepted := 0
	for path, text := range documents(t) {
		if path == "CHANGELOG.md" || path == "docs/design.md" {
			continue
		}
		text = form.ReplaceAllString(text, "")
		connector := connectorfile.Connector{Configs: map[string]string{path: text}}
		for _, p := range connector.Placeholders("secretbroker") {
			if p.Fault != "" {
				t.Errorf("%s: %s", path, p.Fault)
				continue
			}
			if _, err := secret.ParseRef(p.Reference); err != nil {
				t.Errorf("%s: %s: %v", path, p.Reference, err)
			}
			accepted++
		}
	}
	if accepted < 12 {
		t.Errorf("only %d placeholders were found", accepted)
	}
}

var (
	// inBlock matches a command in a block of code, and inline one in a text.
	inBlock = regexp.MustCompile(`(?m)^(?:    |\t)?(?:\$ )?(?:go run \./cmd/broker|(?:\./)?bin/secretbroker|secretbroker) ([^\n]+)$`)
	inline  = regexp.MustCompile("`secretbroker ([a-z][^`]*)`")
)

// TestDocsCommands: the command lines of secretbroker in all documents have subcommands, flags and
// values of flags that exist. Commands in blocks of code also have the right number of arguments.
func TestDocsCommands(t *testing.T) {
	found := 0
	for path, text := range documents(t) {
		if path == "docs/design.md" { // describes rejected commands as well
			continue
		}
		text = strings.ReplaceAll(text, "\\\n", " ")
		for _, m := range inBlock.FindAllStringSubmatch(text, -1) {
			found++
			if err := checkCommand(words(m[1]), true); err != nil {
				t.Errorf("%s: secretbroker %s: %v", path, m[1], err)
			}
		}
		for _, m := range inline.FindAllStringSubmatch(strings.ReplaceAll(text, "\n", " "), -1) {
			found++
			if err := checkCommand(words(m[1]), false); err != nil {
				t.Errorf("%s: secretbroker %s: %v", path, m[1], err)
			}
		}
	}
	if found < 80 {
		t.Errorf("only %d commands were found", found)
	}
}

func TestDocsCommandsFaults(t *testing.T) {
	for line, good := range map[string]bool{
		`check --file x.json --output github  # in CI`: true,
		`explain --diff 'a b' c | less`:                true,
		`chekc --file x.json`:                          false,
		`check --fiel x.json`:                          false,
		`resolve --max-age soon x=y`:                   false,
		`audit nothing x`:                              false,
	} {
		if err := checkCommand(words(line), true); (err == nil) != good {
			t.Errorf("%s: %v", line, err)
		}
	}
}

// checkCommand parses the arguments as the command does, without running it.
func checkCommand(args []string, complete bool) error {
	cmd, rest, err := newRootCommand().Find(args)
	if err != nil {
		return err
	}
	err = cmd.ParseFlags(rest)
	_, noValue := errors.AsType[*pflag.ValueRequiredError](err)
	if errors.Is(err, pflag.ErrHelp) || noValue && !complete {
		return nil
	}
	if err != nil {
		return err
	}
	if !complete && len(cmd.Flags().Args()) == 0 {
		return nil
	}
	if !complete && strings.Contains(cmd.Flags().Arg(0), "|") { // a list of subcommands
		return nil
	}
	if cmd.HasSubCommands() {
		return fmt.Errorf("%s has no subcommand %q", cmd.CommandPath(), cmd.Flags().Args())
	}
	return cmd.ValidateArgs(cmd.Flags().Args())
}

// words splits a command line as a shell does, up to a comment, a pipe, a redirection or a list.
func words(line string) []string {
	var found []string
	for _, m := range regexp.MustCompile(`\s*((?:'[^']*'|"[^"]*"|[^\s'"])+)`).FindAllStringSubmatch(line, -1) {
		word := m[1]
		if strings.HasPrefix(word, "#") || word == "|" || word == "&&" || word == "&" || strings.HasPrefix(word, ">") || strings.HasPrefix(word, "<") && !strings.HasSuffix(word, ">") {
			break
		}
		found = append(found, strings.NewReplacer("'", "", `"`, "").Replace(word))
	}
	return found
}
