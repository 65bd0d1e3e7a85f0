package io.confluent.connect.jdbc.util;

/**
 * The JDBC connectors' interface of this name, to compile against without them. It does not go into
 * the jar: the connector brings its own.
 */
public interface JdbcCredentialsProvider {
  /** What to log in with. */
  JdbcCredentials getJdbcCredentials();

  /** Asks for newer ones. */
  default void refresh() {}
}
