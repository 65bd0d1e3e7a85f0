package history

import (
	"encoding/json"
	"strings"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/manage"
)

// Reversal is what a restored database has otherwise of one integration.
type Reversal struct {
	// Before and After are the document before the restore and now, as JSON; empty
	// for none.
	Before, After json.RawMessage
	// Returned are the grants that are in force now and were not, Lost those that
	// were and are not, each as JSON.
	Returned, Lost []string
	// Settings are the names of all that differs, such as "azure.vaults".
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

// text is a plain value as JSON.
func text(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		return "" // plain values hold nothing that cannot be written
	}
	return string(data)
}
