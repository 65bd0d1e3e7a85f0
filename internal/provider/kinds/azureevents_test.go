package kinds

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/provider/azurekv"
)

// fullEvents is the source in testdata/full.yaml.
var fullEvents = azurekv.EventSettings{
	QueueURL: "https://myaccount.queue.core.windows.net/secret-events",
	TenantID: "contoso.example", ClientID: "77777777-8888-9999-aaaa-bbbbbbbbbbbb",
	Credential: azurekv.Credential{Type: azurekv.ClientCertificate, CertificateFile: "/etc/integrations/credentials/events.pem", SendCertificateChain: true},
}

// TestAzureEvents: each URL of a queue that is accepted, in its canonical form.
func TestAzureEvents(t *testing.T) {
	for _, tt := range []struct{ vault, queue, want string }{
		{"https://abc.vault.azure.net", "https://account1.queue.core.windows.net/events", ""},
		{"https://abc.vault.azure.net", "https://Account1.Queue.core.windows.net:443/a-1/", "https://account1.queue.core.windows.net/a-1"},
		{"https://abc.vault.azure.net", "https://account1.z01.queue.storage.azure.net/events", ""},
		{"https://abc.vault.azure.cn", "https://account1.queue.core.chinacloudapi.cn/events", ""},
		{"https://abc.vault.usgovcloudapi.net", "https://account1.queue.core.usgovcloudapi.net/events", ""},
	} {
		if tt.want == "" {
			tt.want = tt.queue
		}
		host := strings.Split(tt.want, "/")[2]
		got := All().ParseFile("/d/f", []byte(head+credential+"  vaults: ["+tt.vault+"]\n  events: {queue_url: '"+tt.queue+"'}\n  dial: {"+host+": 127.0.0.1:1}\n"), sound)
		if err := got.Faults.Err(); err != nil {
			t.Errorf("%s: %v", tt.queue, err)
			continue
		}
		if source := got.Integration.EventSource(); source != tt.want {
			t.Errorf("%s: the source is %s", tt.queue, source)
		}
	}
	if got := All().ParseFile("/d/f", []byte(full), sound); got.Integration.EventSource() != "" {
		t.Error("there is a source without settings")
	}
}

// TestAzureEventFaults: what is wrong with a source, without a quote of it.
func TestAzureEventFaults(t *testing.T) {
	const (
		queue    = "queue_url: https://account1.queue.core.windows.net/events"
		url      = "6: azure.events.queue_url: "
		expected = url + "expected https://ACCOUNT.queue.core.windows.net/QUEUE"
	)
	for name, tt := range map[string]struct{ events, want string }{
		"nothing":                 {"{}", "6: azure.events.queue_url: missing"},
		"null":                    {"", "6: azure.events.queue_url: missing"},
		"only a credential":       {"{credential: {type: managed_identity}}", "6: azure.events.queue_url: missing"},
		"HTTP":                    {"{queue_url: 'http://account1.queue.core.windows.net/hunter2'}", expected},
		"a signature":             {"{queue_url: 'https://account1.queue.core.windows.net/events?sv=2026&sig=hunter2'}", expected + " without a query"},
		"a user":                  {"{queue_url: 'https://hunter2@account1.queue.core.windows.net/events'}", expected},
		"a port":                  {"{queue_url: 'https://account1.queue.core.windows.net:8443/events'}", expected + " without a port"},
		"another host":            {"{queue_url: 'https://account1.queue.core.windows.net.hunter2.example/events'}", expected + ", or the suffix"},
		"a blob container":        {"{queue_url: 'https://account1.blob.core.windows.net/events'}", expected + ", or the suffix"},
		"a secondary":             {"{queue_url: 'https://account1-secondary.queue.core.windows.net/events'}", expected + ", or the suffix"},
		"a private endpoint":      {"{queue_url: 'https://account1.privatelink.queue.core.windows.net/events'}", url + "the host is the name of a private endpoint"},
		"no queue":                {"{queue_url: 'https://account1.queue.core.windows.net/'}", expected + "; the queue's name"},
		"a message":               {"{queue_url: 'https://account1.queue.core.windows.net/events/messages'}", expected + "; the queue's name"},
		"a queue's name":          {"{queue_url: 'https://account1.queue.core.windows.net/Events'}", expected + "; the queue's name"},
		"two hyphens":             {"{queue_url: 'https://account1.queue.core.windows.net/e--vents'}", expected + "; the queue's name"},
		"percent":                 {"{queue_url: 'https://account1.queue.core.windows.net/%65vents'}", expected},
		"another cloud":           {"{queue_url: 'https://account1.queue.core.chinacloudapi.cn/events'}", url + "a queue of AzureChina, but the vaults are of AzurePublic"},
		"a client alone":          {"{" + queue + ", client_id: " + clientID + "}", "6: azure.events.client_id: belongs to the identity of azure.events.credential"},
		"a tenant alone":          {"{" + queue + ", tenant_id: a.example}", "6: azure.events.tenant_id: belongs to the identity of azure.events.credential"},
		"no client":               {"{" + queue + ", tenant_id: a.example, credential: {type: client_secret, client_secret_file: f}}", "6: azure.events.client_id: missing"},
		"the integration's ids":   {"{" + queue + ", credential: {type: workload_identity, token_file: f}}", "6: azure.events.tenant_id: missing"},
		"a credential of no type": {"{" + queue + ", credential: {client_secret_file: f}}", "6: azure.events.credential.type: missing"},
		"another type":            {"{" + queue + ", credential: {type: sas}}", "6: azure.events.credential.type: expected"},
		"a file of another type":  {"{" + queue + ", credential: {type: managed_identity, client_secret_file: f}}", "6: azure.events.credential.client_secret_file: does not belong"},
		"a chain":                 {"{" + queue + ", credential: {type: managed_identity, send_certificate_chain: true}}", "6: azure.events.credential.send_certificate_chain: only"},
		"a tenant that is none":   {"{" + queue + ", tenant_id: '!', credential: {type: managed_identity}}", "6: azure.events.tenant_id: expected"},
		"unknown":                 {"{" + queue + ", queue: x}", `6: azure.events: unknown setting "queue"`},
	} {
		t.Run(name, func(t *testing.T) {
			got := All().ParseFile("/d/f", []byte(full+"  events: "+tt.events+"\n"), sound)
			if text := got.Faults.Error(); !strings.HasPrefix(text, "/d/f:"+tt.want) || strings.Contains(text, "hunter2") || got.Integration != nil {
				t.Errorf("\n got %s\nwant %s", text, tt.want)
			}
		})
	}
}

// TestAzureEventFacts: the commands to paste name the queue, the vaults and who receives.
func TestAzureEventFacts(t *testing.T) {
	parse := func(events string) string {
		got := All().ParseFile("/d/f", []byte(head+credential+"  client_id: "+clientID+"\n  vaults: [https://one.vault.azure.net, https://a-two.vault.azure.net]\n  events: {queue_url: 'https://account1.queue.core.windows.net/events'"+events+"}\n"), sound)
		if err := got.Faults.Err(); err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		for _, f := range got.Integration.Facts() {
			if strings.HasPrefix(f.ID, "AZURE_EVENT") {
				text.WriteString(f.ID + " " + f.Value + "\n")
			}
		}
		return text.String()
	}
	own := parse(", client_id: 77777777-8888-9999-aaaa-bbbbbbbbbbbb, credential: {type: managed_identity}")
	for _, want := range []string{
		"AZURE_EVENT_QUEUE https://account1.queue.core.windows.net/events\n", "AZURE_EVENT_CLIENT_ID 77777777-",
		"--name events --account-name account1", "for VAULT in a-two one; do", `--assignee "77777777-8888-9999-aaaa-bbbbbbbbbbbb" --role "Storage Queue Data Message Processor"`,
	} {
		if !strings.Contains(own, want) {
			t.Errorf("%q is missing in\n%s", want, own)
		}
	}
	if shared := parse(""); strings.Contains(shared, "AZURE_EVENT_CLIENT_ID") || !strings.Contains(shared, `--assignee "`+clientID+`"`) {
		t.Errorf("with the identity of the integration:\n%s", shared)
	}
	for _, f := range All().ParseFile("/d/f", []byte(full), sound).Integration.Facts() {
		if strings.HasPrefix(f.ID, "AZURE_EVENT") {
			t.Errorf("%s without a source", f.ID)
		}
	}
}

// TestAzureGuide: the commands in the guide are those for its integration.
func TestAzureGuide(t *testing.T) {
	const path = "../../../docs/integrations/azure-key-vault.md"
	guide, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(guide), "\n## Events\n")
	_, document, _ := strings.Cut(section, "```yaml\n")
	document, rest, _ := strings.Cut(document, "```\n")
	_, commands, _ := strings.Cut(rest, "```sh\n")
	commands, _, _ = strings.Cut(commands, "\n```\n")
	got := All().ParseFile("/d/f", []byte(document), sound)
	if err := got.Faults.Err(); err != nil {
		t.Fatal(err)
	}
	want := ""
	for _, f := range got.Integration.Facts() {
		if f.ID == "AZURE_EVENT_COMMANDS" {
			want = f.Value
		}
	}
	if commands != want || want == "" {
		t.Errorf("the guide has\n%s\nwant\n%s", commands, want)
	}
	if shell, err := exec.LookPath("sh"); err == nil {
		if out, err := exec.CommandContext(t.Context(), shell, "-n", "-c", commands).CombinedOutput(); err != nil {
			t.Errorf("the shell does not accept the commands: %v %s", err, out)
		}
	}
}
