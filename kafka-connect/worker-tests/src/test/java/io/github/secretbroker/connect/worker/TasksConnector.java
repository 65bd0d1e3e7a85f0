package io.github.secretbroker.connect.worker;

import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.common.config.ConfigDef;
import org.apache.kafka.connect.connector.Task;
import org.apache.kafka.connect.errors.ConnectException;
import org.apache.kafka.connect.source.SourceConnector;
import org.apache.kafka.connect.source.SourceRecord;
import org.apache.kafka.connect.source.SourceTask;

/** A connector with tasks.max tasks that need a secret and read nothing. Runs in the worker. */
public final class TasksConnector extends SourceConnector {
  static final String SECRET = "secret";

  private Map<String, String> config;

  @Override
  public void start(Map<String, String> props) {
    config = Map.of(SECRET, checked(props));
  }

  private static String checked(Map<String, String> props) {
    String secret = props.get(SECRET);
    if (secret == null || secret.contains("${")) {
      throw new ConnectException("no secret, but " + secret);
    }
    return secret;
  }

  @Override
  public Class<? extends Task> taskClass() {
    return IdleTask.class;
  }

  @Override
  public List<Map<String, String>> taskConfigs(int maxTasks) {
    return Collections.nCopies(maxTasks, config);
  }

  @Override
  public void stop() {}

  @Override
  public ConfigDef config() {
    return new ConfigDef().define(SECRET, ConfigDef.Type.PASSWORD, ConfigDef.Importance.HIGH, "a placeholder");
  }

  @Override
  public String version() {
    return "1";
  }

  /** A task without records. */
  public static final class IdleTask extends SourceTask {
    private final CountDownLatch stopped = new CountDownLatch(1);

    @Override
    public void start(Map<String, String> props) {
      checked(props);
    }

    @Override
    public List<SourceRecord> poll() throws InterruptedException {
      stopped.await(5, TimeUnit.SECONDS);
      return null;
    }

    @Override
    public void stop() {
      stopped.countDown();
    }

    @Override
    public String version() {
      return "1";
    }
  }
}
