package io.github.secretbroker.connect;

import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import org.apache.kafka.common.config.ConfigException;

/**
 * The settings of a worker under {@code config.providers.<name>.param.}: the brokers' addresses and
 * the files for mutual TLS. Immutable; providers with equal settings share a connection.
 *
 * @param serverName the name in the brokers' certificates, null for the host of each broker
 * @param timeout limits one call, including retries
 * @param startupTimeout limits a call for the configuration of the process itself, if it is longer
 * @param maxAge the maximum age of a value; the broker reads older ones again; null for no maximum
 * @param byIntegration whether all calls of an integration go to one broker, and not each call to the next one
 * @param clientId the name of the connection in JMX
 */
record Settings(
    List<Address> addresses, TlsFiles tls, String serverName, Duration timeout, Duration startupTimeout, Duration maxAge,
    boolean byIntegration, String clientId) {

  static final String ADDRESSES = "addresses";
  static final String CA_FILE = "tls.ca.file";
  static final String CERT_FILE = "tls.cert.file";
  static final String KEY_FILE = "tls.key.file";
  static final String KEYSTORE_FILE = "tls.keystore.file";
  static final String KEYSTORE_PASSWORD_FILE = "tls.keystore.password.file";
  static final String TRUSTSTORE_FILE = "tls.truststore.file";
  static final String TRUSTSTORE_PASSWORD_FILE = "tls.truststore.password.file";
  static final String SERVER_NAME = "tls.server.name";
  static final String TIMEOUT_MS = "timeout.ms";
  static final String STARTUP_TIMEOUT_MS = "startup.timeout.ms";
  static final String MAX_AGE_MS = "max.age.ms";
  static final String BALANCE = "balance";
  static final String CLIENT_ID = "client.id";

  /** The names of all settings. */
  static final List<String> NAMES =
      List.of(
          ADDRESSES, CA_FILE, CERT_FILE, KEY_FILE, KEYSTORE_FILE, KEYSTORE_PASSWORD_FILE,
          TRUSTSTORE_FILE, TRUSTSTORE_PASSWORD_FILE, SERVER_NAME, TIMEOUT_MS, STARTUP_TIMEOUT_MS, MAX_AGE_MS,
          BALANCE, CLIENT_ID);

  /**
   * The thread that moves connectors between workers waits for calls too, so the maximum is less
   * than ten seconds.
   */
  private static final long DEFAULT_TIMEOUT_MS = 5_000;
  private static final long MIN_TIMEOUT_MS = 500;
  private static final long MAX_TIMEOUT_MS = 9_000;
  /** Longer than a restart of the brokers takes. */
  private static final long DEFAULT_STARTUP_TIMEOUT_MS = 60_000;
  private static final long MAX_STARTUP_TIMEOUT_MS = 600_000;

  /** The host and port of one broker, or of several with the same name. */
  record Address(String host, int port) {
    @Override
    public String toString() {
      return (host.indexOf(':') >= 0 ? "[" + host + "]" : host) + ":" + port;
    }
  }

  /** @throws ConfigException if settings are invalid; the message lists all errors */
  static Settings parse(Map<String, ?> configs) {
    Reader in = new Reader(configs);
    in.refuseUnknown();
    List<Address> addresses = in.addresses();
    TlsFiles tls = in.tls();
    String serverName = in.text(SERVER_NAME);
    Long timeout = in.number(TIMEOUT_MS, MIN_TIMEOUT_MS, MAX_TIMEOUT_MS);
    Long startupTimeout = in.number(STARTUP_TIMEOUT_MS, 0, MAX_STARTUP_TIMEOUT_MS);
    Long maxAge = in.number(MAX_AGE_MS, 0, 24 * 3_600_000L);
    boolean byIntegration = in.byIntegration();
    String clientId = in.clientId();
    if (!in.faults.isEmpty()) {
      throw new ConfigException(
          "secretbroker: the provider's settings (config.providers.<name>.param.*) are invalid: "
              + String.join("; ", in.faults));
    }
    return new Settings(
        addresses,
        tls,
        serverName,
        Duration.ofMillis(timeout == null ? DEFAULT_TIMEOUT_MS : timeout),
        Duration.ofMillis(startupTimeout == null ? DEFAULT_STARTUP_TIMEOUT_MS : startupTimeout),
        maxAge == null ? null : Duration.ofMillis(maxAge),
        byIntegration,
        clientId);
  }

  /** Returns the addresses as text, for errors and logs. */
  String brokers() {
    StringBuilder text = new StringBuilder();
    for (Address a : addresses) {
      text.append(text.isEmpty() ? "" : ", ").append(a);
    }
    return text.toString();
  }

  /** Reads settings one by one and collects the errors. */
  private static final class Reader {
    private final Map<String, ?> configs;
    private final List<String> faults = new ArrayList<>();

    Reader(Map<String, ?> configs) {
      this.configs = configs;
    }

    void refuseUnknown() {
      for (String name : new TreeSet<>(configs.keySet())) {
        if (!NAMES.contains(name)) {
          faults.add(name + " is not a setting; the settings are " + String.join(", ", NAMES));
        }
      }
    }

    String text(String name) {
      Object value = configs.get(name);
      String text = value == null ? "" : value.toString().strip();
      return text.isEmpty() ? null : text;
    }

    boolean byIntegration() {
      String text = text(BALANCE);
      if (text != null && !text.equals("round_robin") && !text.equals("integration")) {
        faults.add(BALANCE + " must be round_robin or integration");
      }
      return "integration".equals(text);
    }

    String clientId() {
      String text = text(CLIENT_ID);
      if (text == null) {
        return "secretbroker";
      }
      if (!text.matches("[A-Za-z0-9._-]{1,64}")) {
        faults.add(CLIENT_ID + " must have 1 to 64 letters, digits, dots, underscores and hyphens");
      }
      return text;
    }

    Path file(String name) {
      String text = text(name);
      return text == null ? null : Path.of(text);
    }

    Long number(String name, long min, long max) {
      String text = text(name);
      if (text == null) {
        return null;
      }
      try {
        long n = Long.parseLong(text);
        if (n >= min && n <= max) {
          return n;
        }
      } catch (NumberFormatException e) {
        // reported below
      }
      faults.add(name + " must be a number from " + min + " to " + max + ", in milliseconds");
      return null;
    }

    List<Address> addresses() {
      List<Address> found = new ArrayList<>();
      String text = text(ADDRESSES);
      if (text == null) {
        faults.add(ADDRESSES + " is missing: list the brokers as host:port, separated by commas");
        return found;
      }
      for (String part : text.split(",", -1)) {
        Address address = address(part.strip());
        if (address == null) {
          faults.add(ADDRESSES + " has an entry that is not host:port: \"" + part.strip() + "\"");
        } else if (found.contains(address)) {
          faults.add(ADDRESSES + " has " + address + " twice");
        } else {
          found.add(address);
        }
      }
      return List.copyOf(found);
    }

    private static Address address(String text) {
      int colon = text.lastIndexOf(':');
      if (colon <= 0) {
        return null;
      }
      String host = text.substring(0, colon);
      if (host.startsWith("[") && host.endsWith("]")) {
        host = host.substring(1, host.length() - 1);
      } else if (host.indexOf(':') >= 0 || !host.matches("[A-Za-z0-9._-]+")) {
        return null;
      }
      try {
        int port = Integer.parseInt(text.substring(colon + 1));
        return host.isEmpty() || port < 1 || port > 65535 ? null : new Address(host, port);
      } catch (NumberFormatException e) {
        return null;
      }
    }

    TlsFiles tls() {
      TlsFiles files =
          new TlsFiles(
              file(CA_FILE), file(TRUSTSTORE_FILE), file(TRUSTSTORE_PASSWORD_FILE),
              file(CERT_FILE), file(KEY_FILE), file(KEYSTORE_FILE), file(KEYSTORE_PASSWORD_FILE));
      either(files.ca(), files.truststore(), CA_FILE, TRUSTSTORE_FILE, "the authorities of the brokers' certificates");
      together(TRUSTSTORE_FILE, TRUSTSTORE_PASSWORD_FILE);
      if (files.cert() != null || files.key() != null) {
        together(CERT_FILE, KEY_FILE);
      }
      together(KEYSTORE_FILE, KEYSTORE_PASSWORD_FILE);
      Path pem = files.cert() != null ? files.cert() : files.key();
      either(pem, files.keystore(), CERT_FILE + " with " + KEY_FILE, KEYSTORE_FILE, "this worker's certificate");
      return files;
    }

    private void either(Path a, Path b, String nameA, String nameB, String what) {
      if ((a == null) == (b == null)) {
        faults.add("set exactly one of " + nameA + " and " + nameB + ": " + what);
      }
    }

    private void together(String a, String b) {
      if ((text(a) == null) != (text(b) == null)) {
        faults.add(a + " and " + b + " must be set together");
      }
    }
  }
}
