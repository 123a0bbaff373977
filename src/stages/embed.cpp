// `idistill_mpi embed`: units of the pool claimed by any rank, rows kept in the state; then all ranks write their rows
// into OUT.partial, which gets its final name. No exchange inside the loop.

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "datasets.hpp"
#include "idistill/comm/say.hpp"
#include "idistill/data/embedding_file.hpp"
#include "idistill/model/safetensors.hpp"
#include "pool_rows.hpp"
#include "rated_pool.hpp"

namespace idistill::stages {
namespace {

struct EmbedInputs : EmbeddingPlan {
    model::ModelConfig model;
    data::Corpus pool;
};

EmbedInputs read_pool(const Command& command, comm::Communicator& comm) {
    auto [model, notes] = model::check_model(command.inputs().model);
    for (const auto& note : notes) say(comm, "warning: " + note);
    data::Corpus pool(command.inputs().pool, model.vocabulary);
    pool.scan(comm);
    auto planned = plan_embedding(command.values, model, shape_of(pool));
    EmbedInputs inputs{std::move(planned), std::move(model), std::move(pool)};
    check_plans_agree(comm, inputs.plan.hash());
    warn_of_other_tokenizers(command, comm, {&inputs.pool});
    if (!inputs.usable.pool_quarantine.empty())
        say(comm, fmt::format("{} pool samples without label tokens: their rows are not numbers",
                              inputs.usable.pool_quarantine.size()));
    return inputs;
}

void compute(const work::Work& work, const EmbedInputs& inputs) {
    work::do_units(work, state::pool, [&](const data::WorkUnit& unit) -> std::vector<torch::Tensor> {
        auto values = work::unknown_rows(unit.rows.count, inputs.embedding->width());
        const auto rows = plan::eligible_in(inputs.usable, unit.rows);
        if (!rows.empty())
            work::put_rows(values, places_in_unit(unit, rows), inputs.embedding->rows({inputs.pool, rows}));
        return {values};
    });
}

void write(const Command& command, const work::Work& work, const EmbedInputs& inputs, const std::string& made_by) {
    const auto rows = inputs.usable.pool_rows, width = inputs.embedding->width();
    io::ResultWriter writer(work.comm, command.inputs().out,
                            io::FileFormat{data::embedding_format, data::embedding_version});
    const auto datasets = embedding_datasets(rows, width, inputs.pool.index().longest_id);
    datasets.create(writer);
    const auto mine = data::shard_of(rows, work.comm.rank(), work.comm.size());
    const auto block_rows = rows_of_block(width);
    for (auto first = mine.first; first < mine.end(); first += block_rows) {
        const data::RowRange block{first, std::min(block_rows, mine.end() - first)};
        EmbeddedRows made{std::vector<float>(static_cast<std::size_t>(block.count * width)),
                          inputs.pool.read_ids(block)};
        work.state.read(state::pool, state::embedding, block, made.embedding);
        datasets.fill(writer, block, made);
    }
    writer.attribute("made_by", made_by);
    writer.attribute("program", command.program);
    writer.attribute("settings", options::to_json(command.table, command.values));
    writer.attribute("units_recovered", work.state.units_recovered());
    writer.commit();
}

}  // namespace

void embed_pool(const Command& command, comm::Communicator& comm) {
    const auto inputs = read_pool(command, comm);
    check_resources(command, comm, inputs.plan);
    if (command.values.plan_only) return;
    const work::RunLock lock(comm, command.inputs().out);
    check_output_is_free(command, comm);
    const auto model = model::load_model(comm, command.inputs().model, inputs.model, model::place_of(command.run()));
    inputs.embedding->load(*model.decoder);
    // What decides the numbers: kept in the state, and in the file as what made it.
    auto identity = common_identity(command, inputs.model, model, inputs.pool, inputs.plan);
    identity["command"] = "embed";
    identity["state version"] = 2;
    const auto made_by = identity.dump();
    const auto state = continue_state(command, comm, inputs.plan, made_by);
    const work::Work work{comm, *state, inputs.plan};
    compute(work, inputs);
    write(command, work, inputs, made_by);
    state->remove();
    say(comm, fmt::format("{} numbers for each of {} samples -> {}", inputs.embedding->width(), inputs.usable.pool_rows,
                          command.inputs().out));
}

}  // namespace idistill::stages
