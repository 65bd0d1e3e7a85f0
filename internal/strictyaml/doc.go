// Package strictyaml decodes one YAML document into a struct and reports every
// fault at once, each with its file and line, in words for the person who wrote
// the file.
//
// It owns what "strict" means for every file that the broker reads: no unknown
// or repeated setting, no value of the wrong type, no second document, and no
// alias or tag, so that the value of a setting is where the setting is. It
// does not know what any setting means.
//
// Faults name settings and never quote their values: what is in a file by
// mistake may well be a password. Of the YAML parser's messages only those are
// passed on that are known to be constants.
package strictyaml
