import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.Properties;
import java.util.UUID;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.Headers;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueBytesStoreSupplier;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/**
 * The worker's job in Kafka Streams with exactly_once_v2: look a task up, refuse or complete it, store, publish.
 *
 * <p>Tasks and command ids are in two state stores with changelogs, which makes them as durable as the topics are. What
 * it leaves out is in the other's favour: strict reading of JSON, limits, dead letters, and forgetting old ids.
 */
public final class CompleteUserTasks {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final byte[] SEEN = new byte[] {1};

    public static void main(String[] arguments) throws InterruptedException {
        String servers = arguments[0], group = arguments[1], commands = arguments[2];
        String events = arguments[3], rejections = arguments[4], folder = arguments[5], store = arguments[6];
        Topology topology = new Topology();
        topology.addSource("commands", Serdes.ByteArray().deserializer(), Serdes.ByteArray().deserializer(), commands);
        topology.addProcessor("decide", Decide::new, "commands");
        for (String name : new String[] {"tasks", "ids"}) {
            topology.addStateStore(
                    Stores.keyValueStoreBuilder(supplier(store, name), Serdes.String(), Serdes.ByteArray())
                            .withLoggingEnabled(java.util.Map.of()),
                    "decide");
        }
        topology.addSink("events", events, Serdes.ByteArray().serializer(), Serdes.ByteArray().serializer(), "decide");
        topology.addSink(
                "rejections", rejections, Serdes.ByteArray().serializer(), Serdes.ByteArray().serializer(), "decide");
        KafkaStreams streams = new KafkaStreams(topology, properties(servers, group, folder));
        CountDownLatch ended = new CountDownLatch(1);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            streams.close();
            ended.countDown();
        }));
        streams.start();
        ended.await();
    }

    private static KeyValueBytesStoreSupplier supplier(String store, String name) {
        return store.equals("rocksdb") ? Stores.persistentKeyValueStore(name) : Stores.inMemoryKeyValueStore(name);
    }

    private static Properties properties(String servers, String group, String folder) {
        Properties properties = new Properties();
        properties.put(StreamsConfig.APPLICATION_ID_CONFIG, group);
        properties.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, servers);
        properties.put(StreamsConfig.STATE_DIR_CONFIG, folder);
        properties.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        properties.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 2);
        properties.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        properties.put(StreamsConfig.consumerPrefix("auto.offset.reset"), "earliest");
        properties.put(StreamsConfig.consumerPrefix("max.poll.records"), 2000);
        properties.put(StreamsConfig.producerPrefix("linger.ms"), 20);
        properties.put(StreamsConfig.producerPrefix("batch.size"), 262144);
        return properties;
    }

    /** Decides one command after the other; each partition has stores of its own. */
    private static final class Decide implements Processor<byte[], byte[], byte[], byte[]> {
        private ProcessorContext<byte[], byte[]> context;
        private KeyValueStore<String, byte[]> tasks;
        private KeyValueStore<String, byte[]> ids;

        @Override
        public void init(ProcessorContext<byte[], byte[]> context) {
            this.context = context;
            this.tasks = context.getStateStore("tasks");
            this.ids = context.getStateStore("ids");
        }

        @Override
        public void process(Record<byte[], byte[]> record) {
            try {
                decide(record);
            } catch (java.io.IOException error) {
                throw new java.io.UncheckedIOException(error);
            }
        }

        private void decide(Record<byte[], byte[]> record) throws java.io.IOException {
            String id = header(record.headers(), "ce_source") + "\n" + header(record.headers(), "ce_id");
            if (ids.get(id) != null) {
                return;
            }
            ids.put(id, SEEN);
            String key = new String(record.key(), StandardCharsets.UTF_8);
            ObjectNode command = (ObjectNode) JSON.readTree(record.value());
            byte[] stored = tasks.get(key);
            String now = Instant.now().truncatedTo(ChronoUnit.MILLIS).toString();
            if (header(record.headers(), "ce_type").equals("user-task.create.v1")) {
                ObjectNode task = create(key, command, now);
                tasks.put(key, JSON.writeValueAsBytes(task));
                publish(record, key, task, command, "create", "user-task.created.v1", now);
            } else if (stored == null) {
                reject(record, key, 404, "NOT_FOUND", "There is no user task " + key + ".", null, now);
            } else {
                complete(record, key, command, (ObjectNode) JSON.readTree(stored), now);
            }
        }

        private ObjectNode create(String key, ObjectNode command, String now) {
            ObjectNode task = command.deepCopy();
            task.put("userTaskKey", key).put("state", "CREATED").put("version", 1).put("createdAt", now);
            task.put("tenantId", "<default>").put("priority", 50);
            return task;
        }

        private void complete(Record<byte[], byte[]> record, String key, ObjectNode command, ObjectNode task, String now)
                throws java.io.IOException {
            String state = task.get("state").textValue();
            if (!state.equals("CREATED")) {
                String detail = "User task " + key + " is " + state + "; only a CREATED user task can be completed.";
                reject(record, key, 409, "INVALID_STATE", detail, state, now);
                return;
            }
            task.put("state", "COMPLETED").put("version", task.get("version").intValue() + 1).put("completedAt", now);
            JsonNode variables = command.path("variables");
            ObjectNode all = task.withObject("/variables");
            variables.forEachEntry((name, value) -> all.set(name, value));
            tasks.put(key, JSON.writeValueAsBytes(task));
            String action = command.path("action").asText("complete");
            publish(record, key, task, command, action, "user-task.completed.v1", now);
        }

        private void publish(
                Record<byte[], byte[]> record, String key, ObjectNode task, ObjectNode command, String action,
                String type, String now) throws java.io.IOException {
            ObjectNode event = task.deepCopy();
            event.put("action", action).put("commandId", header(record.headers(), "ce_id"));
            event.set("variables", command.path("variables").isObject() ? command.get("variables") : JSON.createObjectNode());
            forward(record, key, event, type, "application/json", now, "events");
        }

        private void reject(
                Record<byte[], byte[]> record, String key, int status, String title, String detail, String state,
                String now) throws java.io.IOException {
            ObjectNode problem = JSON.createObjectNode();
            problem.put("type", "urn:problem-type:user-task:" + title.toLowerCase().replace('_', '-'));
            problem.put("title", title).put("status", status).put("detail", detail).put("userTaskKey", key);
            problem.put("commandId", header(record.headers(), "ce_id"));
            problem.put("commandType", header(record.headers(), "ce_type"));
            if (state != null) {
                problem.put("currentState", state);
            }
            forward(record, key, problem, "user-task.rejected.v1", "application/problem+json", now, "rejections");
        }

        private void forward(
                Record<byte[], byte[]> record, String key, ObjectNode body, String type, String contentType, String now,
                String sink) throws java.io.IOException {
            String id = header(record.headers(), "ce_id");
            Headers headers = new RecordHeaders();
            put(headers, "ce_specversion", "1.0");
            put(headers, "ce_id", UUID.nameUUIDFromBytes((id + type).getBytes(StandardCharsets.UTF_8)).toString());
            put(headers, "ce_source", "/user-task-worker");
            put(headers, "ce_type", type);
            put(headers, "ce_time", now);
            put(headers, "ce_subject", key);
            put(headers, "ce_causationid", id);
            put(headers, "ce_correlationid", id);
            put(headers, "content-type", contentType);
            byte[] value = JSON.writeValueAsBytes(body);
            context.forward(new Record<>(record.key(), value, context.currentSystemTimeMs(), headers), sink);
        }

        private static void put(Headers headers, String name, String value) {
            headers.add(name, value.getBytes(StandardCharsets.UTF_8));
        }

        private static String header(Headers headers, String name) {
            Header header = headers.lastHeader(name);
            return header == null ? "" : new String(header.value(), StandardCharsets.UTF_8);
        }
    }
}
