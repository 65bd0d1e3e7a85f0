package vaultkv

import (
	"fmt"
	"strings"

	"github.com/secretbroker/secretbroker/internal/integration"
)

// Facts implements integration.Settings.
func (v *Settings) Facts() (f integration.Facts) {
	f.Add("Server", v.Address)
	f.Add("Namespace", v.Namespace)
	login := string(v.Auth.Type)
	if v.Auth.Mount != "" {
		login += " at auth/" + v.Auth.Mount
	}
	f.Add("Login", login)
	f.Add("Vault role", v.Auth.Role)
	f.Add("Role ID", v.Auth.RoleID)
	var rules []string
	for _, m := range v.Mounts {
		path := m.Path + "/*"
		if m.Engine == KV2 {
			path = m.Path + "/data/*"
		}
		f.Add("Mount", fmt.Sprintf("%s (%s)", m.Path, m.Engine))
		rules = append(rules, fmt.Sprintf("path %q {\n  capabilities = [\"read\"]\n}", path))
	}
	// A value with more than one line is a document to paste.
	f.Add("Policy of the role, to narrow to what the grants give", strings.Join(rules, "\n"))
	return f
}
