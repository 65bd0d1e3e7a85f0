package secret

import "strings"

const gcpExample = "projects/my-project/secrets/db-secret::password"

// parseGCPStore checks where a Google Cloud secret lives, which is what stands
// before "/secrets/" in its resource name: "projects/PROJECT", or
// "projects/PROJECT/locations/LOCATION" for regional secrets. PROJECT is an ID or
// a number. That the two are of one project cannot be told by looking at them, so
// that a reference has to spell it like the integration. There is one spelling of
// each: s is returned as it is.
func parseGCPStore(s string) (string, error) {
	if fault := gcpProject(s); fault != "" {
		return "", Errorf(ReasonInvalidReference, "not a project: %s; expected projects/PROJECT, or projects/PROJECT/locations/LOCATION for regional secrets", fault)
	}
	return s, nil
}

// gcpProject says what is wrong with s, without quoting it.
func gcpProject(s string) (fault string) {
	rest, ok := strings.CutPrefix(s, "projects/")
	if !ok {
		return "it does not begin with projects/"
	}
	project, location, regional := strings.Cut(rest, "/locations/")
	switch {
	case !isGCPProject(project):
		return "the project must be a project ID (6 to 30 lower-case letters, digits and hyphens, beginning with a letter and not ending with a hyphen) or a project number"
	case regional && !isGCPLocation(location):
		return "the location must be a region such as europe-west3, or a multi-region such as eu"
	}
	return ""
}

// GCPEndpoint returns the host of Secret Manager that has the secrets of a
// canonical store. Source: Secret Manager, "Service endpoints".
func GCPEndpoint(store string) string {
	if _, location, regional := strings.Cut(store, "/locations/"); regional {
		return "secretmanager." + location + ".rep.googleapis.com"
	}
	return "secretmanager.googleapis.com"
}

// parseGCP parses a secret's resource name, which is in Name. The version may stand
// in the resource name, as /versions/VERSION, or have followed a "#".
func parseGCP(r *Ref) (fault string) {
	var ok bool
	if r.Store, r.Name, ok = strings.Cut(r.Name, "/secrets/"); !ok {
		return "after the project stands no /secrets/ and the secret's name"
	}
	if fault := gcpProject(r.Store); fault != "" {
		return fault
	}
	if name, version, inName := strings.Cut(r.Name, "/versions/"); inName {
		if r.Version != "" {
			return `the version is given twice, after "/versions/" and after "#"`
		}
		if version == "" {
			return `the version after "/versions/" is empty; leave it out to take the newest version`
		}
		r.Name, r.Version = name, version
	}
	if !isGCPSecretName(r.Name) {
		return "the secret's name must be 1 to 255 letters, digits, hyphens and underscores"
	}
	if r.Version != "" && !isGCPVersion(r.Version) {
		return "the version must be a number, or an alias of 1 to 63 letters, digits, hyphens and underscores that begins with a letter"
	}
	if r.Version == "latest" { // what Secret Manager calls no version in particular
		r.Version = ""
	}
	return ""
}

// isGCPProject holds Google's rule for project IDs, or takes s for a number.
// Projects with a domain in their ID have a number too.
func isGCPProject(s string) bool {
	if isGCPNumber(s) {
		return true
	}
	if len(s) < 6 || len(s) > 30 {
		return false
	}
	return isGCPLabel(s)
}

// isGCPLocation takes regions and multi-regions. What is global has no location.
func isGCPLocation(s string) bool {
	return len(s) >= 2 && len(s) <= 40 && isGCPLabel(s) && s != "global"
}

// isGCPLabel: lower-case letters, digits and hyphens, a letter first, no hyphen
// last.
func isGCPLabel(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && !isDigit(c) && c != '-' {
			return false
		}
	}
	return s != "" && isAlpha(s[0]) && s[len(s)-1] != '-'
}

// isGCPNumber reports whether s is a positive 63-bit number in its one spelling.
func isGCPNumber(s string) bool {
	for i := range len(s) {
		if !isDigit(s[i]) {
			return false
		}
	}
	return len(s) >= 1 && len(s) <= 18 && s[0] != '0'
}

// isGCPSecretName holds Secret Manager's rule for secret IDs. They are compared
// with case.
func isGCPSecretName(s string) bool {
	return len(s) >= 1 && len(s) <= 255 && isGCPText(s)
}

// isGCPVersion takes numbers and what Secret Manager's rule for aliases allows.
func isGCPVersion(s string) bool {
	return isGCPNumber(s) || len(s) >= 1 && len(s) <= 63 && isAlpha(s[0]) && isGCPText(s)
}

func isGCPNamePart(s string) bool { return len(s) <= 255 && isGCPText(s) }

func isGCPText(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isAlpha(c) && !isDigit(c) && c != '-' && c != '_' {
			return false
		}
	}
	return true
}
