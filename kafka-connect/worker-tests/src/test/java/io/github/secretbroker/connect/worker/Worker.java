package io.github.secretbroker.connect.worker;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.sun.tools.attach.AttachNotSupportedException;
import com.sun.tools.attach.VirtualMachine;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Path;
import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CopyOnWriteArrayList;
import javax.management.JMException;
import javax.management.MBeanAttributeInfo;
import javax.management.MBeanServerConnection;
import javax.management.ObjectName;
import javax.management.remote.JMXConnector;
import javax.management.remote.JMXConnectorFactory;
import javax.management.remote.JMXServiceURL;

/** A distributed Connect worker with the provider on its plugin.path, and its REST API. */
final class Worker implements AutoCloseable {
  private static final ObjectMapper JSON = new ObjectMapper();

  /** Connect's default, which reads all classes of all plugins. */
  private static final String ALL_CLASSES = "hybrid_warn";
  /** The fast way, which is half of the other one. */
  static final String MANIFESTS = "service_load";

  /** All responses of the REST API, of all workers. */
  static final List<String> ANSWERS = new CopyOnWriteArrayList<>();

  private final HttpClient http = HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(5)).build();
  private final Path dir;
  private final int port = Child.freePort();
  private final Path config;
  private final int megabytes;
  private Child process;

  /** A response of the REST API. */
  record Answer(int status, JsonNode body, String text) {}

  /**
   * @param params of the provider, without their prefix
   * @param others further settings of the worker, which override the default ones
   */
  Worker(Path dir, KafkaServer kafka, Map<String, String> params, Map<String, String> others, int megabytes) {
    this.dir = dir;
    this.megabytes = megabytes;
    this.config = dir.resolve("worker.properties");
    Map<String, String> settings = new LinkedHashMap<>();
    settings.put("bootstrap.servers", kafka.bootstrap());
    settings.put("group.id", "workers");
    settings.put("config.storage.topic", "connect-configs");
    settings.put("offset.storage.topic", "connect-offsets");
    settings.put("status.storage.topic", "connect-status");
    settings.put("offset.storage.partitions", "1");
    settings.put("status.storage.partitions", "1");
    for (String topic : List.of("config", "offset", "status")) {
      settings.put(topic + ".storage.replication.factor", "1");
    }
    settings.put("key.converter", "org.apache.kafka.connect.storage.StringConverter");
    settings.put("value.converter", "org.apache.kafka.connect.storage.StringConverter");
    settings.put("offset.flush.interval.ms", "1000");
    settings.put("scheduled.rebalance.max.delay.ms", "0");
    settings.put("listeners", "http://127.0.0.1:" + port);
    settings.put("plugin.path", System.getProperty("kafka.plugins"));
    settings.put("plugin.discovery", ALL_CLASSES);
    settings.put("config.providers", "secretbroker");
    settings.put("config.providers.secretbroker.class", "io.github.secretbroker.connect.SecretBrokerConfigProvider");
    params.forEach((name, value) -> settings.put("config.providers.secretbroker.param." + name, value));
    settings.putAll(others);
    StringBuilder text = new StringBuilder();
    settings.forEach((name, value) -> text.append(name).append('=').append(value).append('\n'));
    Child.write(config, text.toString());
  }

  void start() {
    launch();
    awaitReady();
  }

  void awaitReady() {
    process.awaitReady("the worker", Duration.ofSeconds(90), () -> {
      try {
        return get("/connectors").status() == 200;
      } catch (IllegalStateException e) {
        return false;
      }
    });
  }

  /** Starts the process without waiting until it is ready. */
  void launch() {
    process = Child.start(dir.resolve("worker.log"), dir,
        KafkaServer.java("org.apache.kafka.connect.cli.ConnectDistributed", megabytes, config.toString()));
  }

  /** Returns the attributes of all JMX beans that match the pattern. */
  Map<String, Object> beans(String pattern) {
    Map<String, Object> found = new LinkedHashMap<>();
    try {
      VirtualMachine vm = VirtualMachine.attach(String.valueOf(process.pid()));
      try (JMXConnector jmx = JMXConnectorFactory.connect(new JMXServiceURL(vm.startLocalManagementAgent()))) {
        MBeanServerConnection server = jmx.getMBeanServerConnection();
        for (ObjectName name : server.queryNames(new ObjectName(pattern), null)) {
          for (MBeanAttributeInfo attribute : server.getMBeanInfo(name).getAttributes()) {
            found.put(name + " " + attribute.getName(), server.getAttribute(name, attribute.getName()));
          }
        }
      } finally {
        vm.detach();
      }
    } catch (IOException | JMException | AttachNotSupportedException e) {
      throw new IllegalStateException(e);
    }
    return found;
  }

  /** The next start of the worker is faster: it does not find its plugins in the default way again. */
  void stop() {
    process.close();
    Child.write(config, Child.read(config).replace("plugin.discovery=" + ALL_CLASSES, "plugin.discovery=" + MANIFESTS));
  }

  String log() {
    return Child.read(dir.resolve("worker.log"));
  }

  Answer get(String path) {
    return send(path, HttpRequest.newBuilder().GET());
  }

  Answer post(String path) {
    return send(path, HttpRequest.newBuilder().POST(HttpRequest.BodyPublishers.noBody()));
  }

  Answer put(String path, Map<String, String> body) {
    try {
      return send(path, HttpRequest.newBuilder().header("Content-Type", "application/json")
          .PUT(HttpRequest.BodyPublishers.ofString(JSON.writeValueAsString(body))));
    } catch (IOException e) {
      throw new IllegalStateException(e);
    }
  }

  private Answer send(String path, HttpRequest.Builder request) {
    try {
      HttpResponse<String> response = http.send(
          request.uri(URI.create("http://127.0.0.1:" + port + path)).timeout(Duration.ofSeconds(60)).build(),
          HttpResponse.BodyHandlers.ofString());
      ANSWERS.add(path + " " + response.statusCode() + " " + response.body());
      return new Answer(response.statusCode(), response.body().isEmpty() ? null : JSON.readTree(response.body()), response.body());
    } catch (IOException e) {
      throw new IllegalStateException(path + ": " + e, e);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new IllegalStateException(e);
    }
  }

  /** Creates or changes a connector; retries while workers are rebalancing. */
  Answer create(String name, Map<String, String> config) {
    Answer[] last = new Answer[1];
    Child.await("connector " + name + " is created", Duration.ofSeconds(60), () -> {
      last[0] = put("/connectors/" + name + "/config", config);
      return last[0].status() != 409;
    });
    return last[0];
  }

  void restart(String name) {
    restart(name, false);
  }

  /** Restarts a connector and its tasks, all or only those that have failed. */
  void restart(String name, boolean onlyFailed) {
    Child.await("connector " + name + " is restarted", Duration.ofSeconds(60), () ->
        post("/connectors/" + name + "/restart?includeTasks=true&onlyFailed=" + onlyFailed).status() / 100 == 2);
  }

  void delete(String name) {
    Child.await("connector " + name + " is deleted", Duration.ofSeconds(60), () ->
        send("/connectors/" + name, HttpRequest.newBuilder().DELETE()).status() != 409);
  }

  /** Waits until the connector and, if it runs, its only task have a state. */
  void awaitState(String name, String state) {
    Child.await("connector " + name + " is " + state, Duration.ofSeconds(60), () -> {
      JsonNode status = status(name);
      if (status == null || !status.path("connector").path("state").asText().equals(state)) {
        return false;
      }
      return !state.equals("RUNNING") || status.path("tasks").path(0).path("state").asText().equals(state);
    });
  }

  /** Waits until the connector's only task has that state, and returns its trace. */
  String awaitTask(String name, String state) {
    Child.await("the task of " + name + " is " + state, Duration.ofSeconds(60), () -> {
      JsonNode status = status(name);
      return status != null && status.path("tasks").path(0).path("state").asText().equals(state);
    });
    return status(name).path("tasks").path(0).path("trace").asText();
  }

  /** Returns the connector's status, or null if there is none. */
  JsonNode status(String name) {
    Answer answer = get("/connectors/" + name + "/status");
    return answer.status() == 200 ? answer.body() : null;
  }

  @Override
  public void close() {
    if (process != null) {
      process.close();
    }
  }
}
