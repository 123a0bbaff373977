#include "idistill/work/work.hpp"

#include <ATen/ATen.h>

#include <optional>

#include "idistill/comm/claims.hpp"
#include "idistill/work/collectives.hpp"

namespace idistill::work {
namespace {

using torch::Tensor;

bool begins_in(const data::WorkUnit& unit, const data::RowRange& places) {
    return unit.rows.first >= places.first && unit.rows.first - places.first < places.count;
}

using OnUnit = std::function<void(const data::WorkUnit&, const std::vector<Tensor>&)>;

void claim_units(const Work& work, const plan::Stage& stage, const Compute& compute, data::RowRange places,
                 const std::vector<data::WorkUnit>& known, const OnUnit& on_unit) {
    const auto recovered = work.state.recovered(stage.name);
    const auto& amounts = known.empty() ? stage.units : known;
    std::vector<std::int64_t> order;
    ProgressAmount total, before;
    for (const auto number : data::claim_order(amounts)) {
        const auto unit = static_cast<std::size_t>(number);
        if (!begins_in(stage.units[unit], places)) continue;
        total += amount_of(amounts[unit]);
        if (recovered[unit] == 0)
            order.push_back(number);
        else
            before += amount_of(amounts[unit]);
    }
    std::optional<Progress> progress;
    if (work.comm.is_root()) progress.emplace(stage.title, total, before);
    const auto claims = comm::make_work_claims(work.comm, order, [&](std::int64_t unit) {
        progress->add(amount_of(amounts[static_cast<std::size_t>(unit)]));
    });
    while (const auto number = claims->next()) {
        const auto& unit = stage.units[static_cast<std::size_t>(*number)];
        auto columns = compute(unit);
        std::vector<std::span<const float>> spans;
        for (auto& column : columns) {
            column = column.to(torch::kCPU).contiguous();
            spans.emplace_back(values(column));
        }
        work.state.write_unit(stage.name, *number, spans);
        on_unit(unit, columns);
        claims->finished(*number);
    }
    work.state.sync();
}

}  // namespace

void do_units(const Work& work, std::string_view stage, const Compute& compute, data::RowRange places,
              const std::vector<data::WorkUnit>& known) {
    claim_units(work, work.plan.stage(stage), compute, places, known,
                [](const data::WorkUnit&, const std::vector<Tensor>&) {});
}

std::vector<Tensor> do_units_and_gather(const Work& work, std::string_view name, const Compute& compute,
                                        data::RowRange places, data::RowRange claimed, torch::Device device) {
    const auto& stage = work.plan.stage(name);
    std::vector<Tensor> whole;
    for (const auto& column : stage.columns)
        whole.push_back(
            at::zeros({places.count, column.width}, at::TensorOptions().dtype(torch::kFloat32).device(device)));
    const auto part_of = [&](std::size_t column, const data::WorkUnit& unit) {
        return whole[column].narrow(0, unit.rows.first - places.first, unit.rows.count);
    };
    claim_units(work, stage, compute, claimed, {}, [&](const data::WorkUnit& unit, const auto& columns) {
        if (!begins_in(unit, places)) return;
        for (std::size_t c = 0; c < whole.size(); ++c)
            part_of(c, unit).copy_(columns[c].view({unit.rows.count, stage.columns[c].width}));
    });
    const auto recovered = work.state.recovered(name);
    for (auto unit = static_cast<std::size_t>(work.comm.rank()); unit < stage.units.size();
         unit += static_cast<std::size_t>(work.comm.size())) {
        if (recovered[unit] == 0 || !begins_in(stage.units[unit], places)) continue;
        for (std::size_t c = 0; c < whole.size(); ++c) {
            const auto rows = at::empty({stage.units[unit].rows.count, stage.columns[c].width});
            work.state.read(name, stage.columns[c].name, stage.units[unit].rows, values(rows));
            part_of(c, stage.units[unit]).copy_(rows);
        }
    }
    for (const auto& column : whole) all_reduce_disjoint(work.comm, column);
    return whole;
}

ProgressAmount amount_of(const data::WorkUnit& unit) { return {unit.rows.count, unit.tokens, unit.flops}; }

std::unique_ptr<Progress> progress_of(const plan::Stage& stage, std::span<const std::uint8_t> recovered) {
    ProgressAmount once, total, before;
    for (const auto& unit : stage.units) once += amount_of(unit);
    for (const auto done : recovered) {
        total += once;
        if (done != 0) before += once;
    }
    return std::make_unique<Progress>(stage.title, total, before);
}

std::span<float> values(const Tensor& tensor) {
    return {tensor.mutable_data_ptr<float>(), static_cast<std::size_t>(tensor.numel())};
}

std::vector<float> copied(const Tensor& tensor) {
    const auto whole = tensor.contiguous();
    const auto numbers = values(whole);
    return {numbers.begin(), numbers.end()};
}

Tensor unknown_rows(std::int64_t rows, std::int64_t width) {
    return at::full({rows, width}, std::numeric_limits<float>::quiet_NaN());
}

void put_rows(Tensor& unit_rows, const std::vector<std::int64_t>& places, const Tensor& values) {
    unit_rows.narrow(1, 0, values.size(1))
        .index_copy_(0, at::tensor(places, at::TensorOptions().dtype(torch::kInt64)), values.cpu());
}

}  // namespace idistill::work
