// `idistill_mpi embed`: units of the pool claimed by any rank, rows kept in the state; then all ranks write their rows
// into OUT.partial, which gets its final name. No exchange inside the loop.

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "labels.hpp"
#include "result_rows.hpp"
#include "shared_inputs.hpp"
#include "units.hpp"

namespace idistill::stages {
namespace {

constexpr StateStage embedding_rows{0};  // the only stage of this state

Inputs read_pool(const config::Settings& settings, comm::Communicator& comm) {
    auto model = config::read_model_config(settings.model);
    data::Corpus pool(settings.pool, model.vocabulary);
    pool.scan(comm);
    auto plan = config::make_embedding_plan(settings, model, shape_of(pool));
    check_plans_agree(comm, plan.hash);
    if (!plan.pool_quarantine.empty())
        say(comm, fmt::format("{} pool samples without label tokens: their rows are not numbers",
                              plan.pool_quarantine.size()));
    return {std::move(model), std::move(pool), data::Corpus({}, 0), std::move(plan), {}};
}

/// What decides the numbers: kept in the state, and in the file as what made it.
nlohmann::json identity_of(const config::Settings& settings, const Inputs& inputs, const LoadedModel& model) {
    auto identity = nlohmann::json::parse(config::identity_json(settings));
    identity["command"] = "embed";
    identity["state version"] = 1;
    identity["model sha256"] = model.sha256;
    identity["model geometry"] = geometry(inputs.model);
    identity["pool sha256"] = inputs.pool.index().content_sha256;
    identity["stage"]["plan hash"] = fmt::format("{:016x}", inputs.plan.hash);
    return identity;
}

void compute(const Run& run) {
    const auto& plan = run.inputs.plan;
    const auto embed_unit = [&](const data::WorkUnit& unit) -> UnitColumns {
        auto values = at::full({unit.rows.count, plan.embedding_width}, std::numeric_limits<float>::quiet_NaN());
        const auto rows = eligible_rows(plan, unit.rows);
        if (!rows.empty()) {
            const auto place = at::tensor(rows, at::TensorOptions().dtype(torch::kInt64)) - unit.rows.first;
            values.index_copy_(0, place, embed(run, rows, {0}));
        }
        return {values};
    };
    do_units(run, {embedding_rows, "embed", &plan.pool_units, sample_work(run.inputs.pool), embed_unit});
}

void write(const Run& run, const std::string& made_by, const std::string& program) {
    const auto& plan = run.inputs.plan;
    io::ResultWriter writer(run.comm, run.settings.out,
                            io::FileFormat{data::embedding_format, data::embedding_version});
    writer.create<float>("/embedding", plan.pool_rows, plan.embedding_width);
    writer.create_strings("/id", plan.pool_rows, run.inputs.pool.index().longest_id);
    const auto mine = data::shard_of(plan.pool_rows, run.comm.rank(), run.comm.size());
    constexpr std::int64_t block_numbers = std::int64_t{8} << 20;
    const auto block_rows = std::clamp<std::int64_t>(block_numbers / plan.embedding_width, 1, 65536);
    for (auto first = mine.first; first < mine.end(); first += block_rows) {
        const data::RowRange rows{first, std::min(block_rows, mine.end() - first)};
        std::vector<float> values(static_cast<std::size_t>(rows.count * plan.embedding_width));
        run.state.read(embedding_rows, 0, rows, values);
        writer.write<float>("/embedding", rows, values);
        writer.write_strings("/id", rows.first, run.inputs.pool.read_ids(rows));
    }
    writer.attribute("made_by", made_by);
    writer.attribute("program", program);
    writer.attribute("settings", config::to_json(run.settings));
    writer.attribute("units_recovered", run.state.units_recovered());
    writer.commit();
}

}  // namespace

void embed_pool(const config::Settings& settings, comm::Communicator& comm, const std::string& program) {
    const auto inputs = read_pool(settings, comm);
    check_resources(settings, comm, inputs);
    const io::RunLock lock(comm, settings.out);
    check_output_is_free(settings, comm);
    const auto model = load_model(settings, comm, inputs.model);
    const auto made_by = identity_of(settings, inputs, model).dump();
    Encoders encoders;
    encoders.embeddings.push_back(
        make_embedding(settings, config::embedding_shapes(settings, inputs.model).front(), model.decoder));
    std::vector<io::StateStage> layout{
        {"pool", inputs.plan.pool_rows, {{"embedding", inputs.plan.embedding_width}}, inputs.plan.pool_units}};
    io::StateFile state(comm, settings.out + ".state", made_by, std::move(layout));
    if (state.units_recovered() > 0)
        say(comm, fmt::format("continuing: {} units of an earlier run are kept", state.units_recovered()));
    const Run run{settings, comm, inputs, model, encoders, state};
    compute(run);
    write(run, made_by, program);
    state.remove();
    say(comm, fmt::format("{} numbers for each of {} samples -> {}", inputs.plan.embedding_width, inputs.plan.pool_rows,
                          settings.out));
}

}  // namespace idistill::stages
