#include "state_identity.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "checksum.hpp"
#include "idistill/data/hdf5_handle.hpp"

namespace idistill::work {
namespace {

using nlohmann::json;

std::string unit_borders(const std::vector<data::WorkUnit>& units) {
    std::uint64_t hash = units.size();
    for (const auto& unit : units) hash = std::rotl(hash, 7) ^ Checksum(unit.rows.first, unit.rows.count).value();
    return std::to_string(hash);
}

std::string shown(const json& object, const std::string& key) {
    return key.substr(1) + "=" + (object.contains(key) ? object.at(key).dump() : "(absent)");
}

void join(std::string& text, const std::string& part) {
    if (!text.empty()) text += ", ";
    text += part;
}

json stored_identity(const std::string& path, const std::string& remedy) {
    const h5::File file = h5::open_read_only(path, ExitCode::state_mismatch, remedy);
    const h5::Dataset dataset = h5::open_strings(file, "/identity");
    if (dataset.rows() != 1) h5::mismatch(file, "/identity", "one text", std::to_string(dataset.rows()));
    json stored = json::parse(h5::read_strings(file, dataset, 0, 1).front(), nullptr, false);
    if (!stored.is_object()) h5::mismatch(file, "/identity", "a JSON object", "something else");
    return stored;
}

}  // namespace

std::string state_identity(const std::string& identity, const std::vector<StateStage>& stages) {
    json whole = json::parse(identity).flatten();
    for (const StateStage& stage : stages) {
        const std::string prefix = "/stage/" + stage.name + "/";
        whole[prefix + "rows"] = stage.rows;
        whole[prefix + "units"] = stage.units.size();
        whole[prefix + "unit borders"] = unit_borders(stage.units);
        for (const plan::Column& column : stage.columns) whole[prefix + column.name + " width"] = column.width;
    }
    return whole.dump();
}

void require_same_identity(const std::string& path, const std::string& wanted) {
    const std::string remedy = "Remove " + path + " to start over, or repeat the earlier settings.";
    const json now = json::parse(wanted);
    const json stored = stored_identity(path, remedy);
    std::set<std::string> keys;  // that differ
    for (const auto& [some, other] : {std::pair(&now, &stored), std::pair(&stored, &now)})
        for (const auto& item : some->items())
            if (!other->contains(item.key()) || other->at(item.key()) != item.value()) keys.insert(item.key());
    // How the work is cut follows from settings and inputs: named only where none of these differs.
    const auto is_cut = [](const std::string& key) { return key.starts_with("/stage/"); };
    if (!std::all_of(keys.begin(), keys.end(), is_cut)) std::erase_if(keys, is_cut);

    std::string differing;
    std::string before;
    std::string after;
    for (const std::string& key : keys) {
        join(differing, key.substr(1));
        join(before, shown(stored, key));
        join(after, shown(now, key));
    }
    if (differing.empty()) return;
    throw Error(
        ExitCode::state_mismatch,
        {.where = path, .field = differing, .expected = before + " as begun", .found = after, .remedy = remedy});
}

}  // namespace idistill::work
