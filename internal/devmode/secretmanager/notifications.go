package secretmanager

import (
	"maps"
	"slices"
	"strconv"
	"time"
)

// notifications returns the attributes of the messages that Secret Manager sends for the changes
// of its secrets from one state to the next. A version whose value is edited, which the real
// store does not allow, is an update of the secret.
func notifications(before, after *State, now time.Time) (all []map[string]string) {
	for _, id := range slices.Sorted(maps.Keys(after.Projects)) {
		p, old := after.Projects[id], before.Projects[id]
		if old == nil {
			continue // a new project has not told its secrets whom to notify
		}
		n := notifier{now: now, parent: "projects/" + p.Number}
		n.secrets(old.Secrets, p.Secrets)
		for _, location := range slices.Sorted(maps.Keys(p.Locations)) {
			n.parent = "projects/" + p.Number + "/locations/" + location
			n.secrets(old.Locations[location], p.Locations[location])
		}
		all = append(all, n.all...)
	}
	return all
}

// notifier collects the notifications of one parent of secrets.
type notifier struct {
	now    time.Time
	parent string
	all    []map[string]string
}

// add adds a notification about a version of a secret, or about the secret if version is 0.
func (n *notifier) add(kind, name string, version int) {
	attributes := map[string]string{
		"eventType": kind, "dataFormat": "JSON_API_V1",
		"secretId": n.parent + "/secrets/" + name, "timestamp": n.now.Format(time.RFC3339Nano),
	}
	if version > 0 {
		attributes["versionId"] = attributes["secretId"] + "/versions/" + strconv.Itoa(version)
	}
	n.all = append(n.all, attributes)
}

func (n *notifier) secrets(before, after map[string]*Secret) {
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if after[name] == nil {
			n.add("SECRET_DELETE", name, 0)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(after)) {
		old := before[name]
		if old == nil {
			n.add("SECRET_CREATE", name, 0)
			old = &Secret{}
		}
		n.secret(name, old, after[name])
	}
}

func (n *notifier) secret(name string, before, after *Secret) {
	updated := !maps.Equal(before.Aliases, after.Aliases) || len(before.Versions) > len(after.Versions)
	for i, v := range after.Versions {
		if i >= len(before.Versions) {
			n.add("SECRET_VERSION_ADD", name, i+1)
			continue
		}
		old := before.Versions[i]
		updated = updated || old.Value != v.Value || old.Base64 != v.Base64
		if state := v.state(); state != old.state() {
			n.add(map[string]string{"ENABLED": "SECRET_VERSION_ENABLE", "DISABLED": "SECRET_VERSION_DISABLE", "DESTROYED": "SECRET_VERSION_DESTROY"}[state], name, i+1)
		}
	}
	if updated {
		n.add("SECRET_UPDATE", name, 0)
	}
}
