package io.github.secretbroker.connect.worker;

import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * The real broker, with the embedded Key Vault of its development mode. "secretbroker dev" only provides the
 * vault and the certificates. Workers call a separate "secretbroker serve", which a test can stop and start.
 */
final class Broker implements AutoCloseable {
  static final String INTEGRATION = "cspi-connect";
  static final String VAULT = "https://your-key-vault-name.vault.azure.net";

  private static final Duration START = Duration.ofSeconds(30);

  /** A secret of the vault. */
  private record Secret(String value, String expires, String previous) {}

  private final Path dir;
  private final String binary = System.getProperty("broker.binary");
  private final Map<String, Secret> secrets = new LinkedHashMap<>();
  private final int port = Child.freePort();
  private final int adminPort = Child.freePort();
  private final Child vault;
  private Child serve;

  Broker(Path dir) {
    this.dir = dir;
    if (!Files.isExecutable(Path.of(binary))) {
      throw new IllegalStateException(binary + " is not there; run make build first");
    }
    writeSecrets();
    vault = Child.start(dir.resolve("dev.log"), dir, List.of(binary, "dev", "--dir", dir.toString(),
        "--listen", "127.0.0.1:" + Child.freePort(), "--admin-listen", "127.0.0.1:" + Child.freePort(),
        "--vault-listen", "127.0.0.1:" + Child.freePort()));
    vault.awaitReady("the embedded Key Vault", START, () -> vault.output().contains("Stop with"));
    configure();
    start();
  }

  private void configure() {
    String sample = Child.read(dir.resolve("integrations/cspi-sqlserver.yaml"));
    String integration = sample.substring(0, sample.indexOf("cache:"))
        .replace("id: cspi-sqlserver", "id: " + INTEGRATION)
        .replace("../client-secret.txt", dir.resolve("client-secret.txt").toString())
        .replace("../keyvault-ca.pem", dir.resolve("keyvault-ca.pem").toString())
        // other-worker is the identity of the worker after its certificate has been replaced.
        + "cache: {ttl: 1s}\n"
        + "grants:\n"
        + "  - principals: [spiffe://example.org/connect/*, spiffe://example.org/other/*]\n"
        + "    secrets: [connect-*]\n";
    Child.write(dir.resolve("serve-integrations/cspi-connect.yaml"), integration);
    Child.write(dir.resolve("serve.yaml"), String.join("\n",
        "listen: 127.0.0.1:" + port,
        "admin_listen: 127.0.0.1:" + adminPort,
        "tls: {cert_file: server.pem, key_file: server-key.pem, client_ca_file: ca.pem}",
        "registry: {directory: {path: serve-integrations/}}",
        "audit: {file: serve-audit.jsonl}",
        "shutdown: {drain_delay: 0s}",
        "watch: {splay: 0s}",
        ""));
  }

  void start() {
    serve = Child.start(dir.resolve("serve.log"), dir, List.of(binary, "serve", "--config", "serve.yaml"));
    HttpClient http = HttpClient.newHttpClient();
    HttpRequest readyz = HttpRequest.newBuilder(URI.create("http://127.0.0.1:" + adminPort + "/readyz")).build();
    serve.awaitReady("the broker", START, () -> {
      try {
        return http.send(readyz, HttpResponse.BodyHandlers.ofString()).statusCode() == 200;
      } catch (IOException e) {
        return false;
      } catch (InterruptedException e) {
        throw new IllegalStateException(e);
      }
    });
  }

  void stop() {
    serve.close();
  }

  void restart() {
    stop();
    start();
  }

  /** Returns the settings of a provider that calls this broker as worker-1, without their prefix. */
  Map<String, String> params() {
    Map<String, String> params = new LinkedHashMap<>();
    params.put("addresses", address());
    params.put("tls.ca.file", file("ca.pem").toString());
    params.put("tls.cert.file", file("worker.pem").toString());
    params.put("tls.key.file", file("worker-key.pem").toString());
    return params;
  }

  int port() {
    return port;
  }

  String address() {
    return "127.0.0.1:" + port;
  }

  Path file(String name) {
    return dir.resolve(name);
  }

  /** Returns the placeholder for a secret, or for a key in it. */
  static String placeholder(String reference) {
    return "${secretbroker:" + INTEGRATION + ":" + VAULT + "::" + reference + "}";
  }

  /** Sets the value of a secret; the old value becomes its previous version. */
  void set(String name, String value) {
    set(name, value, null);
  }

  /** @param expires RFC 3339, or null */
  void set(String name, String value, String expires) {
    Secret old = secrets.get(name);
    secrets.put(name, new Secret(value, expires, old == null ? null : old.value()));
    writeSecrets();
  }

  private void writeSecrets() {
    StringBuilder yaml = new StringBuilder("vaults:\n  your-key-vault-name:\n    secrets:\n");
    yaml.append("      not-granted: {value: 'ungranted'}\n");
    secrets.forEach((name, s) -> {
      yaml.append("      ").append(name).append(":\n        value: '").append(s.value()).append("'\n");
      if (s.expires() != null) {
        yaml.append("        expires: ").append(s.expires()).append('\n');
      }
      if (s.previous() != null) {
        yaml.append("        previous:\n          - {value: '").append(s.previous()).append("'}\n");
      }
    });
    Child.write(dir.resolve("secrets.yaml"), yaml.toString());
  }

  /** Returns the audit log, one record per line. */
  String audit() {
    return Child.read(dir.resolve("serve-audit.jsonl"));
  }

  @Override
  public void close() {
    if (serve != null) {
      serve.close();
    }
    vault.close();
  }
}
