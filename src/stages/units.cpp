#include "units.hpp"

#include <ATen/ATen.h>

#include <optional>

#include "idistill/comm/claims.hpp"
#include "idistill/data/work_unit.hpp"

namespace idistill::stages {
namespace {

Work work_of(const UnitStage& stage, std::size_t unit) { return stage.work_of((*stage.units)[unit]); }

std::span<const float> values(const torch::Tensor& tensor) {
    return {tensor.const_data_ptr<float>(), static_cast<std::size_t>(tensor.numel())};
}

bool within(const data::RowRange& unit, const data::RowRange& rows) {
    return unit.first >= rows.first && unit.first - rows.first < rows.count;
}

using OnUnit = std::function<void(const data::WorkUnit&, const UnitColumns&)>;

void claim_units(const Run& run, const UnitStage& stage, const OnUnit& on_unit) {
    const auto recovered = run.state.recovered(stage.stage);
    std::vector<std::int64_t> order;
    for (const auto unit : data::claim_order(*stage.units))
        if (recovered[static_cast<std::size_t>(unit)] == 0 &&
            within((*stage.units)[static_cast<std::size_t>(unit)].rows, stage.rows))
            order.push_back(unit);

    std::optional<Progress> progress;
    if (run.comm.is_root()) {
        Work total, before;
        for (std::size_t unit = 0; unit < stage.units->size(); ++unit) {
            if (!within((*stage.units)[unit].rows, stage.rows)) continue;
            const auto work = work_of(stage, unit);
            total += work;
            if (recovered[unit] != 0) before += work;
        }
        progress.emplace(stage.title, total, before);
    }
    const auto claims = comm::make_work_claims(
        run.comm, order, [&](std::int64_t unit) { progress->add(work_of(stage, static_cast<std::size_t>(unit))); });
    while (const auto unit = claims->next()) {
        const auto& rows = (*stage.units)[static_cast<std::size_t>(*unit)];
        UnitColumns columns = stage.compute(rows);
        std::vector<std::span<const float>> spans;
        for (auto& column : columns) {
            column = column.to(torch::kCPU).contiguous();
            spans.push_back(values(column));
        }
        run.state.write_unit(stage.stage, *unit, spans);
        on_unit(rows, columns);
        claims->finished(*unit);
    }
}

}  // namespace

std::function<Work(const data::WorkUnit&)> sample_work(const data::Corpus& corpus,
                                                       const std::vector<std::int64_t>* rows) {
    return [&tokens = corpus.index().tokens, rows](const data::WorkUnit& unit) {
        Work work{unit.rows.count, 0, unit.flops};
        for (auto i = unit.rows.first; i < unit.rows.end(); ++i)
            work.tokens += tokens[static_cast<std::size_t>(rows == nullptr ? i : (*rows)[static_cast<std::size_t>(i)])];
        return work;
    };
}

void do_units(const Run& run, const UnitStage& stage) {
    claim_units(run, stage, [](const data::WorkUnit&, const UnitColumns&) {});
    run.state.sync();
}

UnitColumns do_units_and_gather(const Run& run, const UnitStage& stage, const data::RowRange& rows,
                                const std::vector<std::int64_t>& widths) {
    UnitColumns whole;
    for (const auto width : widths)
        whole.push_back(at::zeros({rows.count, width}, at::TensorOptions().dtype(torch::kFloat32)));
    claim_units(run, stage, [&](const data::WorkUnit& unit, const UnitColumns& columns) {
        if (!within(unit.rows, rows)) return;
        for (std::size_t c = 0; c < whole.size(); ++c)
            whole[c]
                .narrow(0, unit.rows.first - rows.first, unit.rows.count)
                .copy_(columns[c].view({unit.rows.count, widths[c]}));
    });
    run.state.sync();
    const auto recovered = run.state.recovered(stage.stage);
    for (std::size_t unit = 0; unit < stage.units->size(); ++unit) {
        if (recovered[unit] == 0 ||
            static_cast<int>(unit % static_cast<std::size_t>(run.comm.size())) != run.comm.rank())
            continue;
        const auto& range = (*stage.units)[unit].rows;
        if (!within(range, rows)) continue;
        for (std::size_t c = 0; c < whole.size(); ++c) {
            const auto part = whole[c].narrow(0, range.first - rows.first, range.count);
            run.state.read(stage.stage, c, range,
                           {part.mutable_data_ptr<float>(), static_cast<std::size_t>(part.numel())});
        }
    }
    for (auto& column : whole)
        run.comm.all_reduce_disjoint({column.mutable_data_ptr<float>(), static_cast<std::size_t>(column.numel())});
    return whole;
}

}  // namespace idistill::stages
