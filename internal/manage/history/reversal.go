package history

import (
	"encoding/json"
	"strings"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/manage"
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
	r := Reversal{Before: treeOf(was), After: treeOf(is)}
	seen := make(map[string]bool)
	for _, d := range manage.Diff(was, is) {
		setting := d.Setting
		if strings.HasPrefix(setting, "grants[") {
			setting = "grants"
			if d.Before == nil {
				r.Returned = append(r.Returned, text(d.After))
			} else {
				r.Lost = append(r.Lost, text(d.Before))
			}
		}
		if !seen[setting] {
			seen[setting] = true
			r.Settings = append(r.Settings, setting)
		}
	}
	return r
}

func documentOf(kinds *integration.Kinds, id string, document []byte) *manage.Document {
	if document == nil {
		return nil
	}
	doc := kinds.DecodeDocument(id, document).Document
	return &doc
}

func treeOf(f *manage.Document) json.RawMessage {
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
