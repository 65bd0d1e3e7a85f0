package history

import (
	"encoding/json"
	"strings"

	"github.com/secretbroker/secretbroker/internal/integration"
)

// Reversal is how a restore changed one integration.
type Reversal struct {
	// Before and After are the documents before and after the restore, as JSON; empty if
	// there is none.
	Before, After json.RawMessage
	// Returned are the grants that only After has, and Lost those that only Before has,
	// each as JSON.
	Returned, Lost []string
	// Settings are the names of the settings that differ, such as "azure.vaults".
	Settings []string
}

// Reverse compares two documents of an integration, nil for none.
func Reverse(kinds *integration.Kinds, id string, before, after []byte) Reversal {
	was, is := documentOf(kinds, id, before), documentOf(kinds, id, after)
	changes := integration.Diff(was, is)
	r := Reversal{Before: treeOf(was), After: treeOf(is), Settings: integration.SettingNames(changes)}
	for _, d := range changes {
		switch {
		case !strings.HasPrefix(d.Setting, "grants["):
		case d.Before == nil:
			r.Returned = append(r.Returned, text(d.After))
		default:
			r.Lost = append(r.Lost, text(d.Before))
		}
	}
	return r
}

func documentOf(kinds *integration.Kinds, id string, document []byte) *integration.Document {
	if document == nil {
		return nil
	}
	doc := kinds.DecodeDocument(id, document).Document
	return &doc
}

func treeOf(f *integration.Document) json.RawMessage {
	if f == nil {
		return nil
	}
	return json.RawMessage(text(f.Tree()))
}

// text returns a plain value as JSON.
func text(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		return "" // cannot happen with plain values
	}
	return string(data)
}
