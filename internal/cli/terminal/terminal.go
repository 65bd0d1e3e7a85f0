// Package terminal has what all commands share for their flags and their output: shell
// completion, the flag --output, JSON, and texts that cannot change the terminal.
package terminal

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/internal/cli/exit"
)

// CompleteWords registers words as the shell completion of a flag of cmd. It panics if cmd
// has no such flag.
func CompleteWords(cmd *cobra.Command, flag string, words ...string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err)
	}
}

// RegisterOutput adds the flag --output to a command. The first format is the default.
func RegisterOutput(cmd *cobra.Command, output *string, formats ...string) {
	cmd.Flags().StringVarP(output, "output", "o", formats[0], "output format: "+strings.Join(formats, ", "))
	CompleteWords(cmd, "output", formats...)
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if !slices.Contains(formats, *output) {
			last := len(formats) - 1
			return &exit.Error{Code: exit.Usage, Err: fmt.Errorf("--output: expected %s or %s, not %q", strings.Join(formats[:last], ", "), formats[last], *output)}
		}
		return nil
	}
}

// Confirm asks a question and returns an error unless the answer is yes. If standard input is
// not a terminal, for example in a script, it asks nothing and returns nil.
func Confirm(cmd *cobra.Command, question string) error {
	if !isatty.IsTerminal(os.Stdin.Fd()) {
		return nil
	}
	return confirm(cmd.ErrOrStderr(), os.Stdin, question)
}

func confirm(w io.Writer, r io.Reader, question string) error {
	fmt.Fprintf(w, "%s [y/N] ", question)
	answer, err := bufio.NewReader(r).ReadString('\n')
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	if err != nil {
		fmt.Fprintln(w)
	}
	return &exit.Error{Code: exit.Failure, Err: errors.New("not confirmed; nothing was changed")}
}

// PrintJSON writes v as indented JSON.
func PrintJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// OneLine formats a value of a document on one line: a string as it is, "-" for nil, and
// other values as JSON.
func OneLine(v any) string {
	switch v := v.(type) {
	case nil:
		return "-"
	case string:
		return Printable(v)
	}
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return "?" // cannot happen: documents consist of plain values
	}
	return Printable(strings.TrimSuffix(b.String(), "\n"))
}

// Printable quotes a text if it contains control characters, which could change the
// terminal, or if it begins with "::", which a CI runner executes as a command.
func Printable(s string) string {
	if strings.HasPrefix(s, "::") {
		return strconv.Quote(s)
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return strconv.Quote(s)
		}
	}
	return s
}

// PrintableLines applies Printable to each line of a text.
func PrintableLines(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = Printable(line)
	}
	return strings.Join(lines, "\n")
}

// OrDash returns s as a cell of a table, or "-" if s is empty.
func OrDash(s string) string {
	if s == "" {
		return "-"
	}
	return Printable(s)
}
