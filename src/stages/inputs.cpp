// Stage 1, plan: every rank reads and checks its share of the inputs and makes the same plan; the plan's hash must
// agree.

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "choose.hpp"
#include "idistill/data/tokenizer_fingerprint.hpp"
#include "idistill/report/error.hpp"
#include "labels.hpp"
#include "result_rows.hpp"
#include "shared_inputs.hpp"

namespace idistill::stages {
namespace {

void say_quarantine(comm::Communicator& comm, const std::string& what, const std::vector<config::Quarantined>& rows) {
    std::map<std::string, std::int64_t> reasons;
    for (const auto& row : rows) ++reasons[config::to_string(row.reason)];
    for (const auto& [reason, count] : reasons) say(comm, fmt::format("{} {} left out: {}", count, what, reason));
}

void warn_of_other_tokenizers(const config::Settings& settings, comm::Communicator& comm, const data::Corpus& corpus) {
    if (!comm.is_root()) return;
    const auto expected = data::tokenizer_fingerprint(settings.model);
    for (const auto& file : corpus.files())
        if (expected && file.tokenizer_sha256() != *expected)
            say(comm, fmt::format("warning: {} was not prepared with the tokenizer in {}: prepare it again with "
                                  "--model {}, unless the two map the same "
                                  "tokens",
                                  file.path(), settings.model, settings.model));
}

/// The writers' fingerprints of `what`, which must agree: each node reads its own files.
std::string agree_on(comm::Communicator& comm, const std::string& option, const std::string& what,
                     const std::string& mine) {
    std::string agreed;
    const auto all =
        comm.all_gather(std::span<const std::uint8_t>(reinterpret_cast<const std::uint8_t*>(mine.data()), mine.size()));
    for (std::size_t rank = 0; rank < all.size(); ++rank) {
        const std::string theirs(all[rank].begin(), all[rank].end());
        if (agreed.empty()) agreed = theirs;
        if (!theirs.empty() && theirs != agreed)
            throw Error(ExitCode::bad_input,
                        {option, "sha256 of the " + what + " on the node of rank " + std::to_string(rank), agreed,
                         theirs, "The nodes have different copies of it: make them the same."});
    }
    return agreed;
}

/// The optimizer's factors, computed by one rank of each node.
LoadedOptimizer load_optimizer(const config::Settings& settings, comm::Communicator& comm,
                               const std::vector<config::LinearLayer>& layers) {
    if (settings.optimizer.empty()) return {};
    auto opened = std::make_unique<const influence::OptimizerFile>(settings.optimizer, layers);
    const auto& file = *opened;
    auto memory = std::make_unique<comm::NodeSharedMemory>(comm, file.scale_bytes());
    std::string mine;  // empty on ranks that only look
    if (memory->is_writer()) {
        const auto untouched = file.fill_scales(memory->bytes());
        if (untouched.zero > 0)
            say(comm,
                fmt::format("note: {} of {} parameters ({:.2g} %) were never touched by the optimizer (second moment "
                            "0) and count as not trained",
                            untouched.zero, untouched.all,
                            100.0 * static_cast<double>(untouched.zero) / static_cast<double>(untouched.all)));
        mine = file.sha256();
    }
    memory->publish();
    auto sha256 = agree_on(comm, "--optimizer", "state", mine);
    auto preconditioner = file.preconditioner(memory->bytes());
    return {std::move(memory), std::move(sha256), std::move(preconditioner), std::move(opened)};
}

/// The files among the plan's embeddings, their rows found by id.
std::map<std::size_t, data::EmbeddingFile> match_embedding_files(const config::Settings& settings,
                                                                 comm::Communicator& comm, const data::Corpus& pool,
                                                                 const config::Plan& plan) {
    std::map<std::size_t, data::EmbeddingFile> files;
    if (plan.embedding_widths.empty()) return files;
    const auto parts = config::embedding_parts(settings);
    for (std::size_t place = 0; place < parts.size(); ++place) {
        if (parts[place].kind != config::EmbeddingKind::file) continue;
        auto& file = files.emplace(place, data::EmbeddingFile(parts[place].name)).first->second;
        file.match(comm, pool, plan.eligible);
    }
    return files;
}

/// --embedding with the content of files in place of their paths.
std::string embedding_identity(const config::Settings& settings) {
    const auto parts = config::joined_parts(settings.embedding);
    std::string text;
    for (const auto& part : parts) {
        const auto known = config::embedding_part(part);
        const bool file = known && known->kind == config::EmbeddingKind::file;
        text += (text.empty() ? "" : "+") + (file ? "file " + data::EmbeddingFile(part).fingerprint() : part);
    }
    return text;
}

}  // namespace

Inputs read_inputs(const config::Settings& settings, comm::Communicator& comm) {
    auto model = config::read_model_config(settings.model);
    model::check_weights(settings.model, model::weight_layout(model));  // these two before anything is loaded
    if (!settings.optimizer.empty())
        influence::OptimizerFile(settings.optimizer, config::chosen_layers(model, settings.parameters));
    data::Corpus pool(settings.pool, model.vocabulary);
    std::vector<std::string> target_files;
    for (const auto& target : settings.targets) target_files.push_back(target.path);
    data::Corpus targets(target_files, model.vocabulary);
    pool.scan(comm);
    targets.scan(comm);
    auto plan = config::make_plan(settings, model, shape_of(pool), shape_of(targets));
    auto request = selection_request(settings, pool.index().source_names, plan.pool_rows);
    request.eligible = plan.eligible;
    request.source = pool.index().source;
    check_weight_limits(settings, request, pool.index().source_names);
    check_plans_agree(comm, plan.hash);
    warn_of_other_tokenizers(settings, comm, pool);
    warn_of_other_tokenizers(settings, comm, targets);
    say_quarantine(comm, "pool samples", plan.pool_quarantine);
    say_quarantine(comm, "target samples", plan.target_quarantine);
    if (!settings.landmarks && !settings.landmarks_auto && !plan.landmarks.empty() &&
        std::ssize(plan.landmarks) < config::default_landmarks)
        say(comm,
            fmt::format("note: every one of the pool's {} eligible samples is a landmark: --propagation none gives "
                        "the same influences for less",
                        plan.landmarks.size()));
    auto files = match_embedding_files(settings, comm, pool, plan);
    return {std::move(model), std::move(pool), std::move(targets), std::move(plan), std::move(files)};
}

LoadedModel load_model(const config::Settings& settings, comm::Communicator& comm, const config::ModelConfig& config) {
    const auto layout = model::weight_layout(config);
    auto memory = std::make_unique<comm::NodeSharedMemory>(comm, layout.bytes);
    std::string mine;  // empty on ranks that only look
    if (memory->is_writer()) mine = model::read_weights(settings.model, layout, memory->bytes());
    memory->publish();
    auto sha256 = agree_on(comm, "--model", "weights", mine);
    model::Decoder decoder(config, layout, memory->bytes());
    model::ChosenLayers chosen(config, config::chosen_layers(config, settings.parameters));
    auto optimizer = load_optimizer(settings, comm, chosen.layers());
    return {std::move(memory), std::move(sha256), std::move(decoder), std::move(chosen), std::move(optimizer)};
}

Encoders make_encoders(const config::Settings& settings, const config::Plan& plan, const LoadedModel& model) {
    Encoders encoders;
    const auto& decoder = model.decoder;
    if (plan.sketch.width > 0)
        encoders.sketch = influence::make_sketch(settings.sketch, model.chosen.layers(), plan.sketch.width,
                                                 settings.seed, decoder.options());
    if (plan.embedding_widths.empty()) return encoders;
    for (const auto& shape : config::embedding_shapes(settings, decoder.config()))
        encoders.embeddings.push_back(make_embedding(settings, shape, decoder));
    return encoders;
}

std::unique_ptr<embedding::Embedding> make_embedding(const config::Settings& settings,
                                                     const config::EmbeddingShape& shape,
                                                     const model::Decoder& decoder) {
    switch (shape.part.kind) {
        case config::EmbeddingKind::hidden:
            return embedding::make_hidden_embedding(decoder, settings.jvp_blocks, settings.seed, shape.states);
        case config::EmbeddingKind::gradient_tail:
        case config::EmbeddingKind::gradient:
            return embedding::make_gradient_tail_embedding(decoder, shape.layers,
                                                           {shape.states, shape.sketch.width, settings.seed});
        case config::EmbeddingKind::file:
            return nullptr;
        case config::EmbeddingKind::jvp:
            break;
    }
    return embedding::make_jvp_embedding(
        decoder, {settings.jvp_blocks, settings.jvp_tangents, settings.jvp_rank, settings.seed}, shape.states);
}

std::unique_ptr<io::StateFile> open_state(const config::Settings& settings, comm::Communicator& comm,
                                          const Inputs& inputs, const LoadedModel& model) {
    const auto& plan = inputs.plan;
    auto identity = nlohmann::json::parse(config::identity_json(settings));
    if (identity.contains("embedding")) identity["embedding"] = embedding_identity(settings);
    identity["state version"] = 4;
    identity["model sha256"] = model.sha256;
    identity["model geometry"] = geometry(inputs.model);
    if (!model.optimizer.sha256.empty()) identity["optimizer sha256"] = model.optimizer.sha256;
    identity["pool sha256"] = inputs.pool.index().content_sha256;
    identity["targets sha256"] = inputs.targets.index().content_sha256;
    for (const auto& target : settings.targets) identity["target names"].push_back(target.name);
    identity["stage"]["plan hash"] = fmt::format("{:016x}", plan.hash);

    const auto landmarks = static_cast<std::int64_t>(plan.landmarks.size());
    auto directions = direction_rows_of(plan);
    std::vector<io::StateStage> layout(6);
    layout[target_rows] = {"targets",
                           plan.labelled(),
                           {{"norm", 1}, {"sketch", plan.sketch.width}, {"step", plan.step_products}},
                           plan.target_units};
    layout[landmark_rows] = {"landmarks",
                             landmarks,
                             {{"norm", 1}, {"influence", plan.stored_columns()}, {"embedding", plan.embedding_width}},
                             plan.landmark_units};
    layout[pool_rows] = {"pool", plan.pool_rows, {{"norm", 1}, {"influence", plan.stored_columns()}}, plan.pool_units};
    std::vector<data::WorkUnit> products;  // one after the other, each of as many rows as a direction
    for (std::int64_t step = 0; step < plan.curvature_columns; ++step)
        products.push_back({{step * directions.pieces, directions.pieces}, 0.0});
    layout[curvature_rows] = {
        "curvature", plan.curvature_columns * directions.pieces, {{"product", directions.width}}, std::move(products)};
    layout[direction_rows] = {"directions",
                              std::ssize(directions.units) * directions.pieces,
                              {{"sum", directions.width}},
                              std::move(directions.units)};
    layout[refined_rows] = {"refine",
                            plan.refine_units.empty() ? 0 : plan.refine_units.back().rows.end(),
                            {{"norm", 1}, {"influence", plan.stored_columns()}},
                            plan.refine_units};
    auto state = std::make_unique<io::StateFile>(comm, settings.out + ".state", identity.dump(), std::move(layout));
    if (state->units_recovered() > 0)
        say(comm, fmt::format("continuing: {} units of an earlier run are kept", state->units_recovered()));
    return state;
}

}  // namespace idistill::stages
